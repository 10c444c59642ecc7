// A Jinja program as text and tags, less the white space that tags take.
#ifndef CHOIR_MODEL_TOKENIZER_JINJA_TAGS_H_
#define CHOIR_MODEL_TOKENIZER_JINJA_TAGS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::model {

struct JinjaTag {
  char kind;  // '{' output, '%' statement, 't' text
  std::string text;
};

// As with trim_blocks and lstrip_blocks; comments are left out.
// Errors: INVALID_ARGUMENT for a tag that does not end.
// Threads: safe.
absl::StatusOr<std::vector<JinjaTag>> SplitJinja(absl::string_view text);

// INVALID_ARGUMENT with what could not be read.
absl::Status NotJinja(absl::string_view where);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_JINJA_TAGS_H_
