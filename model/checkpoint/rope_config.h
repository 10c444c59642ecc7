// What config.json says about rotary positions, in each spelling that Hugging
// Face has used.
#ifndef CHOIR_MODEL_CHECKPOINT_ROPE_CONFIG_H_
#define CHOIR_MODEL_CHECKPOINT_ROPE_CONFIG_H_

#include "model/checkpoint/config_reader.h"
#include "model/checkpoint/model_config.h"
#include "nlohmann/json.hpp"

namespace choir::model {

// Sets config.rope_theta, where it is given, and config.rope_scaling. Complains
// to `reader` of scalings other than linear and llama3, of angles for a part
// of a head, and of angles that differ among blocks. config.max_positions is
// set before.
void ReadRope(const nlohmann::json& document, ConfigReader& reader,
              ModelConfig& config);

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_ROPE_CONFIG_H_
