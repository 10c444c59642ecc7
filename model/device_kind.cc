#include "model/device_kind.h"

#include "absl/strings/str_cat.h"

namespace choir::model {

absl::string_view DeviceKindName(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::kCpu:
      return "cpu";
    case DeviceKind::kCuda:
      return "cuda";
    case DeviceKind::kAuto:
      break;
  }
  return "auto";
}

absl::StatusOr<DeviceKind> ParseDeviceKind(absl::string_view name,
                                           absl::string_view what) {
  for (const DeviceKind kind :
       {DeviceKind::kAuto, DeviceKind::kCpu, DeviceKind::kCuda}) {
    if (name == DeviceKindName(kind)) return kind;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      what, " is \"", name, "\"; it must be \"auto\", \"cpu\" or \"cuda\""));
}

}  // namespace choir::model
