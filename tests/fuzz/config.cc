// Any text as TOML: a configuration that prints and parses to itself, or an
// error with words.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "choir/v1/config.pb.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/config/job_options.h"
#include "proto/config/toml_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  choir::v1::ExperimentConfig config;
  const absl::Status status =
      choir::config::ParseToml(text, "fuzz", {}, &config);
  if (!status.ok()) {
    CHOIR_CHECK(!status.message().empty());
    return 0;
  }
  const auto job = choir::config::ResolveJob(config.job());
  if (!job.ok()) return 0;
  const choir::v1::JobConfig full = choir::config::ToProto(*job);
  choir::v1::JobConfig again;
  CHOIR_CHECK(
      choir::config::ParseToml(choir::config::ToToml(full), "again", {}, &again)
          .ok());
  CHOIR_CHECK(google::protobuf::util::MessageDifferencer::Equals(full, again));
  return 0;
}
