// CV32E40P's clock gate, which never gates: that changes nothing but what a sleeping core consumes, and one clock
// simulates faster than two.
module cv32e40p_clock_gate (
    input  logic clk_i,
    input  logic en_i,
    input  logic scan_cg_en_i,
    output logic clk_o
);
  assign clk_o = clk_i;
endmodule
