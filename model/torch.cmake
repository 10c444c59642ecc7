# What needs LibTorch: everything that computes with a model.
add_library(choir_torch_pch STATIC ${CMAKE_CURRENT_LIST_DIR}/torch/pch.cc)
choir_compile_options(choir_torch_pch)
set_target_properties(choir_torch_pch PROPERTIES CXX_STANDARD
                                           ${CHOIR_TORCH_CXX_STANDARD})
target_link_libraries(choir_torch_pch PUBLIC choir_torch_import)
target_precompile_headers(
  choir_torch_pch PRIVATE <ATen/ATen.h> <torch/csrc/autograd/autograd.h>
  <torch/csrc/autograd/custom_function.h>)

# Loops over numbers, always for speed: without them a debug build would train
# a hundred times slower.
choir_library(
  choir_model_kernels
  SOURCES kernels/attention_kernels.cc
          kernels/blas.cc
          kernels/cpu_kernels.cc
          kernels/moe_kernels.cc
          kernels/optimizer.cc
          kernels/quantized_matmul.cc
          kernels/row_kernels.cc
  LIBS choir_model_quantize choir_base ${CMAKE_DL_LIBS})
target_compile_options(
  choir_model_kernels PRIVATE -O3 -fopenmp-simd -ffp-contract=fast
                              -fno-math-errno -fno-trapping-math)

choir_library(
  choir_model_attention
  SOURCES transformer/attention.cc transformer/attention_blockwise.cc
          transformer/attention_reference.cc transformer/ops_device.cc
          transformer/packed_weight.cc
  LIBS choir_model_kernels)
choir_uses_torch(choir_model_attention)

choir_library(
  choir_model
  SOURCES compute.cc
          generate.cc
          loaded_adapter.cc
          loaded_model.cc
          objective/encode.cc
          objective/encode_chat.cc
          objective/losses.cc
          objective/packing.cc
          objective/sparsity.cc
          torch/buffer_pool.cc
          torch/sgemm.cc
          training/bank_trainer.cc
          training/device_optimizer.cc
          training/local_optimizer.cc
          training/pretrain.cc
          training/pretrain_data.cc
          training/router_training.cc
          training/trainer.cc
          transformer/adapter_ops.cc
          transformer/checkpointing.cc
          transformer/decoder.cc
          transformer/decoder_weights.cc
          transformer/linear.cc
          transformer/linear_nll.cc
          transformer/lora_runs.cc
          transformer/mlp_channels.cc
          transformer/moe.cc
          transformer/ops.cc
          transformer/ops_reference.cc
          transformer/remake.cc
          transformer/rotary.cc
  LIBS choir_model_core choir_model_attention choir_model_kernels)
choir_uses_torch(choir_model)

choir_library(
  choir_model_commands
  SOURCES main/adapted_model.cc
          main/chat_messages.cc
          main/class_report.cc
          main/commands.cc
          main/device_commands.cc
          main/eval_command.cc
          main/eval_data.cc
          main/export_commands.cc
          main/generate_command.cc
          main/upcycle_command.cc
  LIBS choir_model)
choir_uses_torch(choir_model_commands)
choir_program(choir-model SOURCES main/choir_model.cc LIBS choir_model_commands
                                                           CLI11::CLI11)
