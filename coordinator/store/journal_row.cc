#include "coordinator/store/journal_row.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace choir::store {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;

void AppendLittleEndian(uint64_t value, std::string& out) {
  for (int i = 0; i < 8; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i)));
  }
}

void AppendWithLength(const std::string& bytes, std::string& out) {
  AppendLittleEndian(bytes.size(), out);
  out += bytes;
}

// Takes "job", and "round" or "version", from a message that has them.
void ReadJobAndRound(const Message& message, RecordColumns& columns) {
  const Descriptor* type = message.GetDescriptor();
  const Reflection* reflection = message.GetReflection();
  const FieldDescriptor* job = type->FindFieldByName("job");
  if (job != nullptr && job->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    columns.job = reflection->GetString(message, job);
  }
  const FieldDescriptor* round = type->FindFieldByName("round");
  if (round == nullptr) round = type->FindFieldByName("version");
  if (round != nullptr &&
      round->cpp_type() == FieldDescriptor::CPPTYPE_UINT32) {
    columns.round = reflection->GetUInt32(message, round);
  }
}

absl::Status BadEvent(uint64_t sequence, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("event ", sequence, ": ", what));
}

}  // namespace

RecordColumns ColumnsOf(const v1::JournalRecord& record) {
  RecordColumns columns;
  const Reflection* reflection = record.GetReflection();
  const FieldDescriptor* field = reflection->GetOneofFieldDescriptor(
      record, record.GetDescriptor()->oneof_decl(0));
  if (field == nullptr) return columns;
  columns.kind = field->name();
  if (record.has_job_submitted()) {
    columns.job = record.job_submitted().config().name();
    return columns;
  }
  const Message& inner = reflection->GetMessage(record, field);
  ReadJobAndRound(inner, columns);
  const FieldDescriptor* key = inner.GetDescriptor()->FindFieldByName("key");
  if (key != nullptr && key->message_type() == v1::TaskKey::descriptor()) {
    ReadJobAndRound(inner.GetReflection()->GetMessage(inner, key), columns);
  }
  return columns;
}

base::Sha256Digest ChainStart() { return base::Sha256Of("choir journal 1"); }

std::string DigestBytes(const base::Sha256Digest& digest) {
  return std::string(digest.begin(), digest.end());
}

base::Sha256Digest ChainHash(const base::Sha256Digest& previous,
                             const JournalRow& row) {
  std::string bytes = DigestBytes(previous);
  bytes.reserve(bytes.size() + 48 + row.kind.size() + row.job.size() +
                row.body.size());
  AppendLittleEndian(row.sequence, bytes);
  AppendLittleEndian(static_cast<uint64_t>(row.time_us), bytes);
  AppendWithLength(row.kind, bytes);
  AppendWithLength(row.job, bytes);
  AppendLittleEndian(row.round, bytes);
  AppendWithLength(row.body, bytes);
  return base::Sha256Of(bytes);
}

absl::StatusOr<JournalEntry> DecodeEntry(const JournalRow& row) {
  JournalEntry entry;
  entry.sequence = row.sequence;
  entry.time = absl::FromUnixMicros(row.time_us);
  if (row.body.size() > static_cast<size_t>(std::numeric_limits<int>::max()) ||
      !entry.record.ParseFromString(row.body)) {
    return BadEvent(row.sequence, absl::StrCat("its ", row.body.size(),
                                               " bytes are no record"));
  }
  const RecordColumns columns = ColumnsOf(entry.record);
  if (columns.kind.empty()) {
    return BadEvent(row.sequence,
                    "its record is of no kind that this version knows");
  }
  if (columns.kind != row.kind) {
    return BadEvent(row.sequence,
                    absl::StrCat("column kind says '", row.kind,
                                 "', the record is '", columns.kind, "'"));
  }
  if (columns.job != row.job) {
    return BadEvent(row.sequence,
                    absl::StrCat("column job says '", row.job,
                                 "', the record '", columns.job, "'"));
  }
  if (columns.round != row.round) {
    return BadEvent(row.sequence, absl::StrCat("column round says ", row.round,
                                               ", the record ", columns.round));
  }
  return entry;
}

}  // namespace choir::store
