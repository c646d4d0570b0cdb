// Ibex (lowRISC) as RV32IMC: the configuration that its repository calls "maxperf". Single-cycle multiplier, branch
// target ALU, writeback stage; no instruction cache, no branch predictor, no physical memory protection. It starts at
// its boot address + 0x80, hence in the boot memory.
module soc (
    input logic clk_i,
    input logic rst_ni
);
  logic instr_req, instr_gnt, instr_rvalid, instr_err, data_req, data_gnt, data_rvalid, data_we, data_err;
  logic [ 3:0] data_be;
  logic [31:0] instr_addr, instr_rdata, data_addr, data_wdata, data_rdata;

  soc_bus bus (
      .clk_i,
      .rst_ni,
      .instr_req_i   (instr_req),
      .instr_addr_i  (instr_addr),
      .instr_gnt_o   (instr_gnt),
      .instr_rvalid_o(instr_rvalid),
      .instr_rdata_o (instr_rdata),
      .instr_err_o   (instr_err),
      .data_req_i    (data_req),
      .data_we_i     (data_we),
      .data_be_i     (data_be),
      .data_addr_i   (data_addr),
      .data_wdata_i  (data_wdata),
      .data_gnt_o    (data_gnt),
      .data_rvalid_o (data_rvalid),
      .data_rdata_o  (data_rdata),
      .data_err_o    (data_err)
  );

  ibex_top #(
      .RV32M          (ibex_pkg::RV32MSingleCycle),
      .RV32B          (ibex_pkg::RV32BNone),
      .RegFile        (ibex_pkg::RegFileFF),
      .BranchTargetALU(1'b1),
      .WritebackStage (1'b1),
      .ICache         (1'b0),
      .BranchPredictor(1'b0),
      .PMPEnable      (1'b0),
      .DbgTriggerEn   (1'b0),
      .SecureIbex     (1'b0)
  ) core (
      .clk_i,
      .rst_ni,
      .test_en_i             (1'b0),
      .ram_cfg_i             ('0),
      .hart_id_i             (32'h0),
      .boot_addr_i           (32'hFFFF_FF00),
      .instr_req_o           (instr_req),
      .instr_gnt_i           (instr_gnt),
      .instr_rvalid_i        (instr_rvalid),
      .instr_addr_o          (instr_addr),
      .instr_rdata_i         (instr_rdata),
      .instr_rdata_intg_i    (7'h0),
      .instr_err_i           (instr_err),
      .data_req_o            (data_req),
      .data_gnt_i            (data_gnt),
      .data_rvalid_i         (data_rvalid),
      .data_we_o             (data_we),
      .data_be_o             (data_be),
      .data_addr_o           (data_addr),
      .data_wdata_o          (data_wdata),
      .data_wdata_intg_o     (),
      .data_rdata_i          (data_rdata),
      .data_rdata_intg_i     (7'h0),
      .data_err_i            (data_err),
      .irq_software_i        (1'b0),
      .irq_timer_i           (1'b0),
      .irq_external_i        (1'b0),
      .irq_fast_i            (15'h0),
      .irq_nm_i              (1'b0),
      .scramble_key_valid_i  (1'b0),
      .scramble_key_i        ('0),
      .scramble_nonce_i      ('0),
      .scramble_req_o        (),
      .debug_req_i           (1'b0),
      .crash_dump_o          (),
      .double_fault_seen_o   (),
      .fetch_enable_i        (ibex_pkg::IbexMuBiOn),
      .alert_minor_o         (),
      .alert_major_internal_o(),
      .alert_major_bus_o     (),
      .core_sleep_o          (),
      .scan_rst_ni           (1'b1)
  );
endmodule
