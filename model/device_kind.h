// Where a model is held and computes.
#ifndef CHOIR_MODEL_DEVICE_KIND_H_
#define CHOIR_MODEL_DEVICE_KIND_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace choir::model {

// kAuto picks CUDA if a device is there.
enum class DeviceKind { kAuto, kCpu, kCuda };

// "auto", "cpu", "cuda".
absl::string_view DeviceKindName(DeviceKind kind);
// INVALID_ARGUMENT names the value and lists the kinds; `what` is the option.
absl::StatusOr<DeviceKind> ParseDeviceKind(absl::string_view name,
                                           absl::string_view what);

}  // namespace choir::model

#endif  // CHOIR_MODEL_DEVICE_KIND_H_
