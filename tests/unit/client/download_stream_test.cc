#include "client/rpc/download_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"

namespace choir::client {
namespace {

// The message in slices of `width` bytes, as a connection may leave it.
grpc::ByteBuffer Sliced(const std::string& message, size_t width) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < message.size(); at += width) {
    slices.emplace_back(message.substr(at, width));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

v1::DownloadChunk Chunk() {
  v1::DownloadChunk chunk;
  chunk.set_offset(1u << 20);
  chunk.set_total_size(5u << 20);
  for (int i = 0; i < 1000; ++i) {
    chunk.mutable_data()->push_back(static_cast<char>(i * 7));
  }
  return chunk;
}

TEST(ParseDownloadChunkTest, IsWhatProtocolBuffersReadWhateverTheSlices) {
  const v1::DownloadChunk chunk = Chunk();
  for (const size_t width : {1, 2, 3, 7, 100, 999, 100000}) {
    const absl::StatusOr<DownloadedChunk> parsed =
        ParseDownloadChunk(Sliced(chunk.SerializeAsString(), width));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->offset, chunk.offset());
    EXPECT_EQ(parsed->total_size, chunk.total_size());
    EXPECT_EQ(parsed->size(), chunk.data().size());
    EXPECT_EQ(absl::StrJoin(parsed->data, ""), chunk.data());
  }
}

TEST(ParseDownloadChunkTest, FieldsMayBeMissing) {
  const absl::StatusOr<DownloadedChunk> parsed =
      ParseDownloadChunk(Sliced("", 1));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->size(), 0u);
  EXPECT_EQ(parsed->total_size, 0u);
}

TEST(ParseDownloadChunkTest, EveryCutIsRefusedOrEndsBetweenFields) {
  const std::string bytes = Chunk().SerializeAsString();
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    const std::string part = bytes.substr(0, cut);
    EXPECT_EQ(ParseDownloadChunk(Sliced(part, 64)).ok(),
              v1::DownloadChunk().ParseFromString(part))
        << cut;
  }
}

TEST(ParseDownloadChunkTest, SkipsFieldsOfLaterVersions) {
  using std::string_literals::operator""s;
  const std::string later =
      "\x20\x05\x29\0\0\0\0\0\0\0\0\x32\x02hi\x3D\0\0\0\0"s;
  const absl::StatusOr<DownloadedChunk> parsed =
      ParseDownloadChunk(Sliced(later + Chunk().SerializeAsString(), 5));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->offset, Chunk().offset());
  EXPECT_EQ(absl::StrJoin(parsed->data, ""), Chunk().data());
}

TEST(ParseDownloadChunkTest, RefusesWhatIsNoChunk) {
  using std::string_literals::operator""s;
  for (const std::string& bytes : {
           "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"s,  // no tag
           "\x12\xFF\xFF\xFF\xFF\x07short"s,  // data longer than the message
           "\x0F"s,                           // a wire type that there is not
           "\x21\x01"s,                       // an unknown field, cut off
       }) {
    EXPECT_EQ(ParseDownloadChunk(Sliced(bytes, 4)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace choir::client
