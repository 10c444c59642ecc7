// Any bytes as the body of a journal row: a record whose columns follow from
// it, or refused.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "coordinator/store/journal_row.h"
#include "google/protobuf/stubs/logging.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // a line for each refused text
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  choir::store::JournalRow row;
  row.sequence = 1;
  row.body.assign(reinterpret_cast<const char*>(data), size);
  (void)choir::store::DecodeEntry(row);
  choir::v1::JournalRecord record;
  if (!record.ParseFromString(row.body)) {
    CHOIR_CHECK(!choir::store::DecodeEntry(row).ok());
    return 0;
  }
  const choir::store::RecordColumns columns = choir::store::ColumnsOf(record);
  row.kind = columns.kind;
  row.job = columns.job;
  row.round = columns.round;
  const auto entry = choir::store::DecodeEntry(row);
  if (entry.ok()) {
    row.job += "x";
    CHOIR_CHECK(!choir::store::DecodeEntry(row).ok());
  }
  return 0;
}
