// The cells that Ibex leaves to the technology it is made in. The clock is never gated: that changes nothing but
// what a sleeping core consumes, and one clock simulates faster than two.
module prim_clock_gating (
    input  logic clk_i,
    input  logic en_i,
    input  logic test_en_i,
    output logic clk_o
);
  assign clk_o = clk_i;
endmodule

module prim_clock_mux2 #(
    parameter bit NoFpgaBufG = 1'b0
) (
    input  logic clk0_i,
    input  logic clk1_i,
    input  logic sel_i,
    output logic clk_o
);
  assign clk_o = sel_i ? clk1_i : clk0_i;
endmodule

module prim_buf #(
    parameter int Width = 1
) (
    input  logic [Width-1:0] in_i,
    output logic [Width-1:0] out_o
);
  assign out_o = in_i;
endmodule

module prim_and2 #(
    parameter int Width = 1
) (
    input  logic [Width-1:0] in0_i,
    input  logic [Width-1:0] in1_i,
    output logic [Width-1:0] out_o
);
  assign out_o = in0_i & in1_i;
endmodule

module prim_flop #(
    parameter int               Width      = 1,
    parameter logic [Width-1:0] ResetValue = 0
) (
    input  logic             clk_i,
    input  logic             rst_ni,
    input  logic [Width-1:0] d_i,
    output logic [Width-1:0] q_o
);
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) q_o <= ResetValue;
    else q_o <= d_i;
  end
endmodule
