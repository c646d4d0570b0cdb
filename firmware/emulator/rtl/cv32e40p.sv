// CV32E40P (OpenHW Group, formerly RI5CY) as RV32IMC: no PULP extensions, no floating-point unit.
module soc (
    input logic clk_i,
    input logic rst_ni
);
  logic instr_req, instr_gnt, instr_rvalid, data_req, data_gnt, data_rvalid, data_we, data_err;
  logic [ 3:0] data_be;
  logic [31:0] instr_addr, instr_rdata, data_addr, data_wdata, data_rdata;

  import "DPI-C" function void harness_bus_error(input int unsigned address);

  soc_bus bus (
      .clk_i,
      .rst_ni,
      .instr_req_i   (instr_req),
      .instr_addr_i  (instr_addr),
      .instr_gnt_o   (instr_gnt),
      .instr_rvalid_o(instr_rvalid),
      .instr_rdata_o (instr_rdata),
      .instr_err_o   (),
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

  // The core knows no bus errors; a watchdog on the bus restarts it.
  logic [31:0] last_data_addr;
  always_ff @(posedge clk_i) begin
    if (data_req && data_gnt) last_data_addr <= data_addr;
    if (rst_ni && data_rvalid && data_err) harness_bus_error(last_data_addr);
  end

  cv32e40p_top #(
      .COREV_PULP      (0),
      .COREV_CLUSTER   (0),
      .FPU             (0),
      .ZFINX           (0),
      .NUM_MHPMCOUNTERS(1)
  ) core (
      .clk_i,
      .rst_ni,
      .pulp_clock_en_i    (1'b1),
      .scan_cg_en_i       (1'b0),
      .boot_addr_i        (32'h0),
      .mtvec_addr_i       (32'h0),
      .dm_halt_addr_i     (32'h0),
      .hart_id_i          (32'h0),
      .dm_exception_addr_i(32'h0),
      .instr_req_o        (instr_req),
      .instr_gnt_i        (instr_gnt),
      .instr_rvalid_i     (instr_rvalid),
      .instr_addr_o       (instr_addr),
      .instr_rdata_i      (instr_rdata),
      .data_req_o         (data_req),
      .data_gnt_i         (data_gnt),
      .data_rvalid_i      (data_rvalid),
      .data_we_o          (data_we),
      .data_be_o          (data_be),
      .data_addr_o        (data_addr),
      .data_wdata_o       (data_wdata),
      .data_rdata_i       (data_rdata),
      .irq_i              (32'h0),
      .irq_ack_o          (),
      .irq_id_o           (),
      .debug_req_i        (1'b0),
      .debug_havereset_o  (),
      .debug_running_o    (),
      .debug_halted_o     (),
      .fetch_enable_i     (1'b1),
      .core_sleep_o       ()
  );
endmodule
