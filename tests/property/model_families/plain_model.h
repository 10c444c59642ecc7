// A decoder written as plainly as the papers and Hugging Face's modules read:
// one sequence, whole score matrices, a loop over tokens for experts. What
// every family is tested against.
#ifndef CHOIR_TESTS_PROPERTY_MODEL_FAMILIES_PLAIN_MODEL_H_
#define CHOIR_TESTS_PROPERTY_MODEL_FAMILIES_PLAIN_MODEL_H_

#include <map>
#include <string>
#include <vector>

#include "model/checkpoint/model_config.h"
#include "model/torch/compat.h"

namespace choir::tests {

// Tensors by their names in a checkpoint, double precision.
using PlainTensors = std::map<std::string, at::Tensor>;

// Random tensors of every name that `config` needs.
PlainTensors RandomTensors(const model::ModelConfig& config, uint64_t seed,
                           double scale);

// Logits [tokens, vocabulary] of one sequence. `router_logits`, if not null,
// gets [tokens, experts] of each block with experts.
at::Tensor PlainLogits(const model::ModelConfig& config,
                       const PlainTensors& tensors,
                       const std::vector<int32_t>& ids,
                       std::vector<at::Tensor>* router_logits = nullptr);

// Writes config.json and the tensors, float32, into a new folder.
std::string WritePlainModel(const model::ModelConfig& config,
                            const PlainTensors& tensors);

// One shape of each family, with what sets it apart switched on.
std::vector<model::ModelConfig> FamilyConfigs();

}  // namespace choir::tests

#endif  // CHOIR_TESTS_PROPERTY_MODEL_FAMILIES_PLAIN_MODEL_H_
