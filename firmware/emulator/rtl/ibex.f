// Verilator arguments for Ibex. $CORE: the folder of its sources (PyPI: pythondata-cpu-ibex).
+define+SYNTHESIS
+incdir+$CORE/rtl
+incdir+$CORE/vendor/lowrisc_ip/ip/prim/rtl
+incdir+$CORE/vendor/lowrisc_ip/dv/sv/dv_utils
-y $CORE/rtl
-y $CORE/vendor/lowrisc_ip/ip/prim/rtl
$CORE/vendor/lowrisc_ip/ip/prim/rtl/prim_util_pkg.sv
$CORE/vendor/lowrisc_ip/ip/prim/rtl/prim_ram_1p_pkg.sv
$CORE/vendor/lowrisc_ip/ip/prim/rtl/prim_secded_pkg.sv
$CORE/vendor/lowrisc_ip/ip/prim/rtl/prim_mubi_pkg.sv
$CORE/vendor/lowrisc_ip/ip/prim/rtl/prim_cipher_pkg.sv
$CORE/vendor/lowrisc_ip/ip/prim/rtl/prim_count_pkg.sv
$CORE/rtl/ibex_pkg.sv
