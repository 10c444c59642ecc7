// A base model's files under their own names, as links into the blob cache.
#ifndef CHOIR_CLIENT_AGENT_MODEL_FOLDER_H_
#define CHOIR_CLIENT_AGENT_MODEL_FOLDER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "choir/v1/coordinator.pb.h"
#include "google/protobuf/repeated_field.h"

namespace choir::client {

using ModelFiles = google::protobuf::RepeatedPtrField<v1::ModelFile>;

// INVALID_ARGUMENT for no files, more than 1000, a repeated name, or a name
// that is not a plain file name of at most 128 letters, digits, '-', '_', '.'.
absl::Status CheckModelFiles(const ModelFiles& files);

// Names the contents: SHA-256, hexadecimal, of the sorted names and digests.
std::string BaseModelDigest(const ModelFiles& files);

// Makes <models>/<BaseModelDigest>/ with a link for each file to its blob,
// which must lie in <models>/../blobs, and removes the folders of other models.
// Returns the folder's path.
absl::StatusOr<std::string> LinkModelFolder(const std::string& models,
                                            const ModelFiles& files);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_MODEL_FOLDER_H_
