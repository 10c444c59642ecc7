#include "coordinator/audit/export.h"

#include <google/protobuf/util/json_util.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/cli.h"
#include "base/status_macros.h"
#include "coordinator/store/journal_reader.h"

namespace choir::audit {

absl::StatusOr<std::string> EventJson(const store::JournalRow& row) {
  CHOIR_ASSIGN_OR_RETURN(const store::JournalEntry entry,
                         store::DecodeEntry(row));
  std::string record;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  const auto printed = google::protobuf::util::MessageToJsonString(
      entry.record, &record, options);
  if (!printed.ok()) {
    return absl::DataLossError(absl::StrCat(
        "event ", row.sequence, " has no JSON form: ", printed.ToString()));
  }
  return absl::StrCat(
      "{\"sequence\":", row.sequence, ",\"time\":\"",
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", entry.time, absl::UTCTimeZone()),
      "\",\"hash\":\"", absl::BytesToHexString(row.hash),
      "\",\"kind\":", base::JsonQuote(row.kind),
      ",\"job\":", base::JsonQuote(row.job), ",\"round\":", row.round,
      ",\"record\":", record, "}");
}

absl::StatusOr<uint64_t> ExportEvents(const std::string& root,
                                      std::ostream& out) {
  CHOIR_ASSIGN_OR_RETURN(const auto reader, store::JournalReader::Open(root));
  uint64_t events = 0;
  CHOIR_RETURN_IF_ERROR(
      reader->ForEachRow([&](const store::JournalRow& row) -> absl::Status {
        CHOIR_ASSIGN_OR_RETURN(const std::string line, EventJson(row));
        if (!(out << line << '\n')) {
          return absl::ResourceExhaustedError(
              absl::StrCat("cannot write event ", row.sequence,
                           "; is the disk full or the pipe closed?"));
        }
        ++events;
        return absl::OkStatus();
      }));
  if (!out.flush()) {
    return absl::ResourceExhaustedError("cannot write the last events");
  }
  return events;
}

}  // namespace choir::audit
