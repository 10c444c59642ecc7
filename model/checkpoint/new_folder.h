// A model's folder that comes into being whole or not at all.
#ifndef CHOIR_MODEL_CHECKPOINT_NEW_FOLDER_H_
#define CHOIR_MODEL_CHECKPOINT_NEW_FOLDER_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace choir::model {

// OK if there is nothing at `path`, or an empty folder. ALREADY_EXISTS with the
// remedy otherwise: what is there is never written over, nor mixed with.
absl::Status CheckNewFolder(const std::string& path);

// Files gather in PATH/.partial; Finish() moves them to PATH, config.json, by
// which a folder is known for a model, last. Dropped without Finish(), it
// leaves nothing behind.
class NewFolder {
 public:
  // Errors: those of CheckNewFolder() and base/files.h.
  static absl::StatusOr<std::unique_ptr<NewFolder>> Create(
      const std::string& path);
  ~NewFolder();

  // The folder to write into until Finish().
  const std::string& partial() const { return partial_; }
  // Errors: those of base/files.h.
  absl::Status Finish();

 private:
  NewFolder(std::string path, std::string partial, bool made)
      : path_(std::move(path)), partial_(std::move(partial)), made_(made) {}

  const std::string path_;
  const std::string partial_;
  const bool made_;  // here, and not before
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_NEW_FOLDER_H_
