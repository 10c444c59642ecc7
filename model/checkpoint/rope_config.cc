#include "model/checkpoint/rope_config.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace choir::model {
namespace {

using nlohmann::json;

// Other models rotate only a part of each head.
void CheckWholeHeads(ConfigReader& reader) {
  const double factor = reader.Positive("partial_rotary_factor", 1.0);
  if (factor != 1.0) {
    reader.Complain("partial_rotary_factor",
                    absl::StrCat("is ", factor, "; known is 1"));
  }
}

void ReadLlama3(ConfigReader& rope, const ModelConfig& config,
                RopeScaling& scaling) {
  scaling.kind = RopeScalingKind::kLlama3;
  scaling.factor = rope.Positive("factor", 1.0);
  scaling.low_freq_factor = rope.Positive("low_freq_factor", 1.0);
  scaling.high_freq_factor = rope.Positive("high_freq_factor", 4.0);
  scaling.original_max_positions = rope.OptionalSize(
      "original_max_position_embeddings", config.max_positions);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    rope.Complain("high_freq_factor",
                  absl::StrCat("is ", scaling.high_freq_factor,
                               "; it must be above low_freq_factor, which is ",
                               scaling.low_freq_factor));
  }
}

// The object `name`: a scaling and perhaps theta.
void ReadRopeObject(const json& object, const char* name, ConfigReader& reader,
                    ModelConfig& config) {
  if (!object.is_object()) {
    reader.Complain(name, "is not a JSON object");
    return;
  }
  ConfigReader rope(object, absl::StrCat(name, "."));
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      rope.Complain(key.c_str(),
                    "is an object; angles that differ among blocks are not "
                    "known");
    }
  }
  config.rope_theta = rope.Positive("rope_theta", config.rope_theta);
  const char* key = rope.Has("rope_type") ? "rope_type" : "type";
  const std::string type = rope.Text(key, "default");
  if (type == "linear") {
    config.rope_scaling.kind = RopeScalingKind::kLinear;
    config.rope_scaling.factor = rope.Positive("factor", 1.0);
  } else if (type == "llama3") {
    ReadLlama3(rope, config, config.rope_scaling);
  } else if (type != "default") {
    rope.Complain(key, absl::StrCat("is '", type,
                                    "'; known are default, linear, llama3"));
  }
  if (type != "default" && !rope.Has("factor")) {
    rope.Complain("factor", "is missing");
  }
  CheckWholeHeads(rope);
  reader.Adopt(rope);
}

}  // namespace

void ReadRope(const json& document, ConfigReader& reader, ModelConfig& config) {
  config.rope_theta = reader.Positive("rope_theta", config.rope_theta);
  CheckWholeHeads(reader);
  // Newer files keep theta and scaling together in rope_parameters, which
  // transformers of any version looks at only where there is no rope_scaling.
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!reader.Has(name) || document[name].empty()) continue;
    ReadRopeObject(document[name], name, reader, config);
    return;
  }
}

}  // namespace choir::model
