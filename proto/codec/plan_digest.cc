#include "proto/codec/plan_digest.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/sha256.h"
#include "google/protobuf/descriptor.h"

namespace choir::codec {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::string DoubleText(double value) {
  uint64_t bits = 0;
  static_assert(sizeof(bits) == sizeof(value), "IEEE 754 doubles");
  std::memcpy(&bits, &value, sizeof(bits));
  return absl::StrFormat("%016x", bits);
}

std::string TextOf(const std::string& bytes) {
  return absl::StrCat(bytes.size(), ":", bytes);
}

std::string SingleText(const Message& message, const FieldDescriptor* field) {
  const Reflection& reflection = *message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrCat(reflection.GetInt32(message, field));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(reflection.GetInt64(message, field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(reflection.GetUInt32(message, field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(reflection.GetUInt64(message, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return DoubleText(reflection.GetDouble(message, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return DoubleText(reflection.GetFloat(message, field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.GetBool(message, field) ? "1" : "0";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat(reflection.GetEnumValue(message, field));
    case FieldDescriptor::CPPTYPE_STRING:
      return TextOf(reflection.GetString(message, field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  CHOIR_CHECK(false);  // messages have lines of their own
  return "";
}

// Of plans, only texts are repeated beside messages.
std::string ElementText(const Message& message, const FieldDescriptor* field,
                        int index) {
  CHOIR_CHECK(field->cpp_type() == FieldDescriptor::CPPTYPE_STRING);
  return TextOf(
      message.GetReflection()->GetRepeatedString(message, field, index));
}

void AppendLines(const Message& message, const std::string& prefix,
                 std::string& out) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);  // in order of numbers
  for (const FieldDescriptor* field : fields) {
    const std::string path =
        absl::StrCat(prefix, prefix.empty() ? "" : ".", field->name());
    const bool nested = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (field->is_repeated()) {
      for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
        const std::string element = absl::StrCat(path, "[", i, "]");
        if (nested) {
          AppendLines(reflection.GetRepeatedMessage(message, field, i), element,
                      out);
        } else {
          absl::StrAppend(&out, element, "=", ElementText(message, field, i),
                          "\n");
        }
      }
    } else if (nested) {
      AppendLines(reflection.GetMessage(message, field), path, out);
    } else {
      absl::StrAppend(&out, path, "=", SingleText(message, field), "\n");
    }
  }
}

}  // namespace

std::string CanonicalText(const Message& message) {
  std::string text;
  AppendLines(message, "", text);
  return text;
}

std::string ModelDigest(const v1::TaskPlan& plan) {
  v1::TaskPlan part;
  *part.mutable_base_model() = plan.base_model();
  *part.mutable_adapter() = plan.adapter();
  part.set_layout_digest(plan.layout_digest());
  return base::Sha256Hex(absl::StrCat("choir model 1\n", CanonicalText(part)));
}

std::string ConfigDigest(const v1::TaskPlan& plan) {
  v1::TaskPlan part;
  part.mutable_key()->set_kind(plan.key().kind());
  *part.mutable_adapter_config() = plan.adapter_config();
  *part.mutable_training() = plan.training();
  *part.mutable_aggregation() = plan.aggregation();
  *part.mutable_secure_aggregation() = plan.secure_aggregation();
  return base::Sha256Hex(
      absl::StrCat("choir settings 1\n", CanonicalText(part)));
}

}  // namespace choir::codec
