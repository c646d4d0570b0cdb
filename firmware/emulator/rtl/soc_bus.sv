// What a simulated core sees: flash, SRAM and the harness's device (UART, reset). Each port has one access under way at
// most: a request is granted when the port is free and answered 1 + W cycles later, and in that cycle the port is free
// again. W: the wait states of flash or SRAM, which the harness names; 0 for all else. The ports do not slow each other.
module soc_bus #(
    parameter logic [31:0] FlashBase  = 32'h0000_0000,
    parameter int unsigned FlashWords = 131072,         // 512 kB
    parameter logic [31:0] SramBase   = 32'h2000_0000,
    parameter int unsigned SramWords  = 65536,          // 256 kB
    parameter logic [31:0] DeviceBase = 32'h4000_0000,  // 4 kB
    parameter logic [31:0] BootBase   = 32'hFFFF_FF00   // 256 bytes, each word a jump to flash
) (
    input  logic        clk_i,
    input  logic        rst_ni,
    // instructions
    input  logic        instr_req_i,
    input  logic [31:0] instr_addr_i,
    output logic        instr_gnt_o,
    output logic        instr_rvalid_o,
    output logic [31:0] instr_rdata_o,
    output logic        instr_err_o,
    // data
    input  logic        data_req_i,
    input  logic        data_we_i,
    input  logic [ 3:0] data_be_i,
    input  logic [31:0] data_addr_i,
    input  logic [31:0] data_wdata_i,
    output logic        data_gnt_o,
    output logic        data_rvalid_o,
    output logic [31:0] data_rdata_o,
    output logic        data_err_o
);
  import "DPI-C" function int unsigned harness_flash_word(input int unsigned index);
  import "DPI-C" function int unsigned harness_flash_waits();
  import "DPI-C" function int unsigned harness_sram_waits();
  import "DPI-C" function int unsigned harness_read(input int unsigned offset);
  import "DPI-C" function void harness_write(input int unsigned offset, input int unsigned value);

  localparam logic [31:0] JumpToFlash = {FlashBase[11:0], 5'd0, 3'd0, 5'd0, 7'h67};  // jalr zero, FlashBase(zero)
  localparam int unsigned FlashBits = $clog2(FlashWords);
  localparam int unsigned SramBits = $clog2(SramWords);

  logic [31:0] flash[FlashWords];
  logic [31:0] sram [SramWords];

  logic [7:0] flash_waits, sram_waits;
  logic [7:0] instr_left, data_left;  // cycles until the answer, beyond the next one
  logic instr_take, data_take;

  initial begin
    flash_waits = 8'(harness_flash_waits());
    sram_waits  = 8'(harness_sram_waits());
    for (int unsigned i = 0; i < FlashWords; ++i) flash[i] = harness_flash_word(i);
    for (int unsigned i = 0; i < SramWords; ++i) sram[i] = 32'h0;
  end

  function automatic logic in_flash(input logic [31:0] address);
    return address[31:FlashBits+2] == FlashBase[31:FlashBits+2];
  endfunction

  function automatic logic in_sram(input logic [31:0] address);
    return address[31:SramBits+2] == SramBase[31:SramBits+2];
  endfunction

  function automatic logic [7:0] waits(input logic [31:0] address);
    if (in_flash(address)) return flash_waits;
    return in_sram(address) ? sram_waits : 8'd0;
  endfunction

  // Bytes that are not enabled keep their value.
  function automatic logic [31:0] merged(input logic [31:0] old, input logic [31:0] fresh, input logic [3:0] enable);
    logic [31:0] mask;
    mask = {{8{enable[3]}}, {8{enable[2]}}, {8{enable[1]}}, {8{enable[0]}}};
    return (old & ~mask) | (fresh & mask);
  endfunction

  assign instr_gnt_o = instr_left == 8'd0;
  assign data_gnt_o  = data_left == 8'd0;
  assign instr_take  = instr_req_i && instr_gnt_o;
  assign data_take   = data_req_i && data_gnt_o;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      instr_rvalid_o <= 1'b0;
      data_rvalid_o  <= 1'b0;
      instr_left     <= 8'd0;
      data_left      <= 8'd0;
    end else begin
      if (instr_gnt_o) begin
        instr_left     <= instr_req_i ? waits(instr_addr_i) : 8'd0;
        instr_rvalid_o <= instr_req_i && waits(instr_addr_i) == 8'd0;
      end else begin
        instr_left     <= instr_left - 8'd1;
        instr_rvalid_o <= instr_left == 8'd1;
      end
      if (data_gnt_o) begin
        data_left     <= data_req_i ? waits(data_addr_i) : 8'd0;
        data_rvalid_o <= data_req_i && waits(data_addr_i) == 8'd0;
      end else begin
        data_left     <= data_left - 8'd1;
        data_rvalid_o <= data_left == 8'd1;
      end
    end
  end

  // One process for both ports and blocking assignments to the arrays: an instruction fetched in the cycle of a store
  // to it is the old one, and the simulator need not queue the store.
  /* verilator lint_off BLKSEQ */
  always_ff @(posedge clk_i) begin
    if (instr_take) begin
      instr_err_o <= 1'b0;
      if (in_flash(instr_addr_i)) instr_rdata_o <= flash[instr_addr_i[FlashBits+1:2]];
      else if (in_sram(instr_addr_i)) instr_rdata_o <= sram[instr_addr_i[SramBits+1:2]];
      else if (instr_addr_i[31:8] == BootBase[31:8]) instr_rdata_o <= JumpToFlash;
      else begin
        instr_rdata_o <= 32'h0;  // illegal instructions, for a core that has no bus errors
        instr_err_o   <= 1'b1;
      end
    end
    if (data_take && rst_ni) begin
      data_err_o   <= 1'b0;
      data_rdata_o <= 32'h0;
      if (in_sram(data_addr_i)) begin
        data_rdata_o <= sram[data_addr_i[SramBits+1:2]];
        if (data_we_i)
          sram[data_addr_i[SramBits+1:2]] = merged(sram[data_addr_i[SramBits+1:2]], data_wdata_i, data_be_i);
      end else if (in_flash(data_addr_i) && !data_we_i) begin
        data_rdata_o <= flash[data_addr_i[FlashBits+1:2]];
      end else if (data_addr_i[31:12] == DeviceBase[31:12]) begin
        if (data_we_i) harness_write({20'h0, data_addr_i[11:0]}, data_wdata_i);
        else data_rdata_o <= harness_read({20'h0, data_addr_i[11:0]});
      end else begin
        data_err_o <= 1'b1;
      end
    end
  end
  /* verilator lint_on BLKSEQ */
endmodule
