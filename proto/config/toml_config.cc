#include "proto/config/toml_config.h"

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/cli.h"
#include "base/files.h"
#include "base/nearest_name.h"
#include "base/status_macros.h"
#include "proto/config/ascii_toml.h"

namespace choir::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr uint64_t kMostConfigBytes = 1 << 20;

absl::Status UnknownField(const std::string& path, absl::string_view key,
                          const Descriptor& descriptor) {
  std::vector<std::string> known;
  for (int i = 0; i < descriptor.field_count(); ++i) {
    known.push_back(descriptor.field(i)->name());
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown field '", path, "'; did you mean '",
                   base::NearestName(key, known),
                   "'? Known here: ", absl::StrJoin(known, ", ")));
}

std::string NodeText(const toml::node& node) {
  std::ostringstream out;
  node.visit([&out](const auto& value) { out << value; });
  std::string text = out.str();
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

absl::Status WrongType(const std::string& path, const toml::node& node,
                       absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(
      "'", path, "' is ", NodeText(node), "; ", expected, " is needed"));
}

absl::Status FillMessage(const toml::table& table, const std::string& path,
                         Message* message);

// Either sets the field or, for a repeated one, appends to it.
template <typename T, typename SetFn, typename AddFn>
void Store(Message* message, const FieldDescriptor* field, const T& value,
           SetFn set, AddFn add) {
  const Reflection* reflection = message->GetReflection();
  if (field->is_repeated()) {
    (reflection->*add)(message, field, value);
  } else {
    (reflection->*set)(message, field, value);
  }
}

absl::Status FillInteger(const toml::node& node, const std::string& path,
                         const FieldDescriptor* field, Message* message) {
  const auto value = node.value_exact<int64_t>();
  const bool wide = field->cpp_type() == FieldDescriptor::CPPTYPE_UINT64;
  const int64_t most = wide ? std::numeric_limits<int64_t>::max()
                            : std::numeric_limits<uint32_t>::max();
  if (!value.has_value() || *value < 0 || *value > most) {
    return WrongType(path, node,
                     absl::StrCat("a whole number from 0 to ", most));
  }
  if (wide) {
    Store(message, field, static_cast<uint64_t>(*value), &Reflection::SetUInt64,
          &Reflection::AddUInt64);
  } else {
    Store(message, field, static_cast<uint32_t>(*value), &Reflection::SetUInt32,
          &Reflection::AddUInt32);
  }
  return absl::OkStatus();
}

absl::Status FillScalar(const toml::node& node, const std::string& path,
                        const FieldDescriptor* field, Message* message) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return FillInteger(node, path, field, message);
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      if (!node.is_number()) return WrongType(path, node, "a number");
      Store(message, field, *node.value<double>(), &Reflection::SetDouble,
            &Reflection::AddDouble);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      if (!node.is_boolean()) return WrongType(path, node, "true or false");
      Store(message, field, *node.value<bool>(), &Reflection::SetBool,
            &Reflection::AddBool);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      if (!node.is_string()) return WrongType(path, node, "text in quotes");
      const std::string value = *node.value<std::string>();
      if (field->is_repeated()) {
        message->GetReflection()->AddString(message, field, value);
      } else {
        message->GetReflection()->SetString(message, field, value);
      }
      return absl::OkStatus();
    }
    default:
      return absl::InternalError(
          absl::StrCat("'", path, "' has a type that TOML cannot give"));
  }
}

// A map<string, string>.
absl::Status FillMap(const toml::node& node, const std::string& path,
                     const FieldDescriptor* field, Message* message) {
  const toml::table* table = node.as_table();
  if (table == nullptr) return WrongType(path, node, "a table of texts");
  const Descriptor* entry = field->message_type();
  for (const auto& [key, value] : *table) {
    if (!value.is_string()) {
      return WrongType(absl::StrCat(path, ".", std::string(key.str())), value,
                       "text in quotes");
    }
    Message* item = message->GetReflection()->AddMessage(message, field);
    item->GetReflection()->SetString(item, entry->FindFieldByNumber(1),
                                     std::string(key.str()));
    item->GetReflection()->SetString(item, entry->FindFieldByNumber(2),
                                     *value.value<std::string>());
  }
  return absl::OkStatus();
}

absl::Status FillField(const toml::node& node, const std::string& path,
                       const FieldDescriptor* field, Message* message) {
  if (field->is_map()) return FillMap(node, path, field, message);
  if (field->is_repeated()) {
    const toml::array* array = node.as_array();
    if (array == nullptr) return WrongType(path, node, "a list");
    for (size_t i = 0; i < array->size(); ++i) {
      CHOIR_RETURN_IF_ERROR(FillScalar(
          *array->get(i), absl::StrCat(path, "[", i, "]"), field, message));
    }
    return absl::OkStatus();
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    const toml::table* table = node.as_table();
    if (table == nullptr) return WrongType(path, node, "a table");
    return FillMessage(
        *table, path, message->GetReflection()->MutableMessage(message, field));
  }
  return FillScalar(node, path, field, message);
}

absl::Status FillMessage(const toml::table& table, const std::string& path,
                         Message* message) {
  const Descriptor* descriptor = message->GetDescriptor();
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string field_path =
        path.empty() ? name : absl::StrCat(path, ".", name);
    const FieldDescriptor* field = descriptor->FindFieldByName(name);
    if (field == nullptr) return UnknownField(field_path, name, *descriptor);
    CHOIR_RETURN_IF_ERROR(FillField(node, field_path, field, message));
  }
  return absl::OkStatus();
}

// Puts "a.b.c=value" into `root`. A value that is not TOML is taken as text,
// so that --set job.name=demo needs no quotes inside quotes.
absl::Status ApplyOverride(const std::string& text, toml::table& root) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set '", text, "': path.to.field=value is needed"));
  }
  const std::string path = text.substr(0, equals);
  const std::string value = text.substr(equals + 1);
  const absl::StatusOr<std::string> ascii =
      ToAsciiToml(absl::StrCat("v = ", value), "--set");
  toml::parse_result parsed = toml::parse(ascii.ok() ? *ascii : "");
  toml::table holder;
  if (parsed && parsed.table().contains("v")) {
    holder = std::move(parsed).table();
  } else {
    holder.insert_or_assign("v", value);
  }
  const std::vector<std::string> parts = absl::StrSplit(path, '.');
  toml::table* table = &root;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    if (!table->contains(parts[i])) {
      table->insert_or_assign(parts[i], toml::table{});
    }
    table = table->get(parts[i])->as_table();
    if (table == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set '", text, "': '", parts[i], "' is not a table"));
    }
  }
  if (parts.back().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set '", text, "': path.to.field=value is needed"));
  }
  table->insert_or_assign(parts.back(), *holder.get("v"));
  return absl::OkStatus();
}

std::string TomlText(absl::string_view text) { return base::JsonQuote(text); }

std::string ScalarText(const Message& message, const FieldDescriptor* field,
                       int index) {
  const Reflection* reflection = message.GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrCat(
          repeated ? reflection->GetRepeatedUInt32(message, field, index)
                   : reflection->GetUInt32(message, field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(
          repeated ? reflection->GetRepeatedUInt64(message, field, index)
                   : reflection->GetUInt64(message, field));
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const double value =
          repeated ? reflection->GetRepeatedDouble(message, field, index)
                   : reflection->GetDouble(message, field);
      std::string text = absl::StrFormat("%.17g", value);
      double shorter = 0;
      const std::string brief = absl::StrCat(value);
      if (absl::SimpleAtod(brief, &shorter) && shorter == value) text = brief;
      // TOML tells 1 from 1.0.
      if (text.find_first_of(".en") == std::string::npos) text += ".0";
      return text;
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      return (repeated ? reflection->GetRepeatedBool(message, field, index)
                       : reflection->GetBool(message, field))
                 ? "true"
                 : "false";
    default:
      return TomlText(repeated
                          ? reflection->GetRepeatedString(message, field, index)
                          : reflection->GetString(message, field));
  }
}

void AppendMap(const Message& message, const FieldDescriptor* field,
               std::string& out) {
  const Reflection* reflection = message.GetReflection();
  const Descriptor* entry = field->message_type();
  std::vector<std::string> items;
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const Message& item = reflection->GetRepeatedMessage(message, field, i);
    items.push_back(absl::StrCat(TomlText(item.GetReflection()->GetString(
                                     item, entry->FindFieldByNumber(1))),
                                 " = ",
                                 TomlText(item.GetReflection()->GetString(
                                     item, entry->FindFieldByNumber(2)))));
  }
  std::sort(items.begin(), items.end());
  absl::StrAppend(&out, field->name(), " = {", absl::StrJoin(items, ", "),
                  "}\n");
}

void AppendToml(const Message& message, const std::string& path,
                std::string& out) {
  const Reflection* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->is_map()) {
      AppendMap(message, field, out);
    } else if (field->is_repeated()) {
      std::vector<std::string> items;
      for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
        items.push_back(ScalarText(message, field, i));
      }
      absl::StrAppend(&out, field->name(), " = [", absl::StrJoin(items, ", "),
                      "]\n");
    } else if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      absl::StrAppend(&out, field->name(), " = ", ScalarText(message, field, 0),
                      "\n");
    }
  }
  for (const FieldDescriptor* field : fields) {
    if (field->is_repeated() ||
        field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      continue;
    }
    const std::string inner =
        path.empty() ? field->name() : absl::StrCat(path, ".", field->name());
    absl::StrAppend(&out, out.empty() ? "" : "\n", "[", inner, "]\n");
    AppendToml(reflection->GetMessage(message, field), inner, out);
  }
}

}  // namespace

absl::Status ParseToml(absl::string_view text, absl::string_view source,
                       const std::vector<std::string>& overrides,
                       Message* message) {
  // Editors on Windows put a byte order mark before the text.
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");
  CHOIR_ASSIGN_OR_RETURN(const std::string ascii, ToAsciiToml(text, source));
  toml::parse_result parsed = toml::parse(ascii, std::string(source));
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return absl::InvalidArgumentError(
        absl::StrCat(source, " line ", error.source().begin.line, ": ",
                     std::string(error.description())));
  }
  toml::table root = std::move(parsed).table();
  for (const std::string& text_override : overrides) {
    CHOIR_RETURN_IF_ERROR(ApplyOverride(text_override, root));
  }
  message->Clear();
  const absl::Status status = FillMessage(root, "", message);
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat(source, ": ", status.message()));
  }
  return absl::OkStatus();
}

absl::Status LoadTomlFile(const std::string& path,
                          const std::vector<std::string>& overrides,
                          Message* message) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, kMostConfigBytes));
  return ParseToml(text, path, overrides, message);
}

std::string ToToml(const Message& message) {
  std::string out;
  AppendToml(message, "", out);
  return out;
}

absl::StatusOr<absl::Duration> ParsePositiveDuration(absl::string_view text,
                                                     absl::string_view field) {
  absl::Duration duration;
  if (!absl::ParseDuration(std::string(text), &duration) ||
      duration <= absl::ZeroDuration() ||
      duration == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", field, "' is \"", text.substr(0, 40),
                     "\"; a positive time such as \"90s\" or \"2m30s\" is "
                     "needed"));
  }
  return duration;
}

}  // namespace choir::config
