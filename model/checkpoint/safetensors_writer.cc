#include "model/checkpoint/safetensors_writer.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

absl::Status WriteAll(std::FILE* file, absl::string_view bytes,
                      const std::string& path) {
  if (!bytes.empty() &&
      std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size()) {
    return base::ErrnoStatus(errno, absl::StrCat("write ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, StopFn stop) {
  const std::string data = path + ".data";
  std::FILE* file = std::fopen(data.c_str(), "w+b");
  if (file == nullptr) {
    return base::ErrnoStatus(errno, absl::StrCat("create ", data));
  }
  return std::unique_ptr<SafetensorsWriter>(
      new SafetensorsWriter(path, file, std::move(stop)));
}

SafetensorsWriter::~SafetensorsWriter() {
  if (data_ != nullptr) std::fclose(data_);
  unlink((path_ + ".data").c_str());
  unlink((path_ + ".new").c_str());
}

absl::Status SafetensorsWriter::Begin(absl::string_view name, DType dtype,
                                      std::vector<int64_t> shape) {
  if (!entries_.empty()) CHOIR_CHECK(entries_.back().end == written_);
  Entry entry{std::string(name), dtype, std::move(shape), written_, written_};
  uint64_t bytes = static_cast<uint64_t>(DTypeBytes(dtype));
  for (const int64_t size : entry.shape) bytes *= static_cast<uint64_t>(size);
  entry.end += bytes;
  entries_.push_back(std::move(entry));
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(absl::string_view bytes) {
  CHOIR_CHECK(data_ != nullptr && !entries_.empty() &&
              written_ + bytes.size() <= entries_.back().end);
  if (stop_) CHOIR_RETURN_IF_ERROR(stop_());
  CHOIR_RETURN_IF_ERROR(WriteAll(data_, bytes, path_ + ".data"));
  written_ += bytes.size();
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Add(const TensorView& tensor) {
  CHOIR_RETURN_IF_ERROR(Begin(tensor.name, tensor.dtype, tensor.shape));
  CHOIR_RETURN_IF_ERROR(Append(tensor.bytes));
  CHOIR_CHECK(entries_.back().end == written_);
  return absl::OkStatus();
}

std::string SafetensorsWriter::Header(
    const std::map<std::string, std::string>& metadata) const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  for (const Entry& entry : entries_) {
    CHOIR_CHECK(!header.contains(entry.name));
    header[entry.name] = {{"dtype", std::string(DTypeName(entry.dtype))},
                          {"shape", entry.shape},
                          {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string out;
  for (int i = 0; i < 8; ++i) {
    out.push_back(static_cast<char>(text.size() >> (8 * i) & 0xFF));
  }
  return out + text;
}

absl::Status SafetensorsWriter::CopyData(std::FILE* out) {
  if (std::fflush(data_) != 0 || std::fseek(data_, 0, SEEK_SET) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("read ", path_, ".data"));
  }
  std::string buffer(1 << 20, '\0');
  uint64_t copied = 0;
  while (true) {
    if (stop_) CHOIR_RETURN_IF_ERROR(stop_());
    const size_t n = std::fread(&buffer[0], 1, buffer.size(), data_);
    if (n == 0) break;
    CHOIR_RETURN_IF_ERROR(
        WriteAll(out, absl::string_view(buffer).substr(0, n), path_ + ".new"));
    copied += n;
  }
  if (copied != written_) {
    return base::ErrnoStatus(EIO, absl::StrCat("read ", path_, ".data"));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish(
    const std::map<std::string, std::string>& metadata) {
  CHOIR_CHECK(data_ != nullptr &&
              (entries_.empty() || entries_.back().end == written_));
  const std::string temporary = path_ + ".new";
  std::FILE* out = std::fopen(temporary.c_str(), "wb");
  if (out == nullptr) {
    return base::ErrnoStatus(errno, absl::StrCat("create ", temporary));
  }
  absl::Status status = WriteAll(out, Header(metadata), temporary);
  if (status.ok()) status = CopyData(out);
  if (status.ok() && (std::fflush(out) != 0 || fsync(fileno(out)) != 0)) {
    status = base::ErrnoStatus(errno, absl::StrCat("write ", temporary));
  }
  if (std::fclose(out) != 0 && status.ok()) {
    status = base::ErrnoStatus(errno, absl::StrCat("close ", temporary));
  }
  std::fclose(data_);
  data_ = nullptr;
  unlink((path_ + ".data").c_str());
  CHOIR_RETURN_IF_ERROR(status);
  if (std::rename(temporary.c_str(), path_.c_str()) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("rename ", temporary));
  }
  return absl::OkStatus();
}

}  // namespace choir::model
