#include "coordinator/store/file_system.h"

#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"

namespace choir::store {
namespace {

constexpr uint64_t kFuse = 0x65735546;

struct NetworkFileSystem {
  uint64_t magic;
  const char* name;
};

// statfs(2), and linux/magic.h where the page is behind.
constexpr NetworkFileSystem kNetwork[] = {
    {0x6969, "NFS"},        {0x517B, "SMB"},       {0xFF534D42, "CIFS"},
    {0xFE534D42, "SMB2"},   {0x5346414F, "AFS"},   {0x6B414653, "AFS"},
    {0x73757245, "Coda"},   {0x00C36400, "Ceph"},  {0x01021997, "9P"},
    {0x0BD00BD0, "Lustre"}, {0x7461636f, "OCFS2"}, {0x47504653, "GPFS"},
    {0x564C, "NCP"},
};

constexpr const char* kNetworkFuse[] = {
    "fuse.sshfs",    "fuse.s3fs",    "fuse.rclone",     "fuse.glusterfs",
    "fuse.gcsfuse",  "fuse.ceph",    "fuse.davfs",      "fuse.curlftpfs",
    "fuse.smbnetfs", "fuse.juicefs", "fuse.gvfsd-fuse", "fuse.moosefs",
    "fuse.mfs",      "fuse.goofys",
};

// The type of the mount that has device number `device`; empty if unknown.
std::string MountType(dev_t device) {
  std::ifstream mounts("/proc/self/mountinfo");
  const std::string number = absl::StrCat(major(device), ":", minor(device));
  std::string line;
  while (std::getline(mounts, line)) {
    // id parent major:minor root point options [tags] - type source options
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() < 7 || fields[2] != number) continue;
    for (size_t i = 6; i + 1 < fields.size(); ++i) {
      if (fields[i] == "-") return fields[i + 1];
    }
  }
  return "";
}

}  // namespace

absl::Status CheckFileSystemType(uint64_t magic, absl::string_view fuse_type,
                                 absl::string_view path) {
  std::string name;
  for (const NetworkFileSystem& one : kNetwork) {
    if (magic == one.magic) name = one.name;
  }
  if (magic == kFuse) {
    for (const char* one : kNetworkFuse) {
      if (fuse_type == one) name = one;
    }
  }
  if (name.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      path, " is on a network file system (", name,
      "), which does not keep the locks and the write order that the journal "
      "needs; put the store on a local disk"));
}

absl::Status CheckFileSystem(const std::string& path) {
  struct statfs info;
  struct stat file;
  if (statfs(path.c_str(), &info) != 0 || stat(path.c_str(), &file) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("look at ", path));
  }
  const uint64_t magic = static_cast<uint64_t>(info.f_type) & 0xffffffff;
  return CheckFileSystemType(
      magic, magic == kFuse ? MountType(file.st_dev) : "", path);
}

}  // namespace choir::store
