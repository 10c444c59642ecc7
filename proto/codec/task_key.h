// Which task a message is about.
#ifndef CHOIR_PROTO_CODEC_TASK_KEY_H_
#define CHOIR_PROTO_CODEC_TASK_KEY_H_

#include "choir/v1/coordinator.pb.h"

namespace choir::codec {

inline bool SameTask(const v1::TaskKey& a, const v1::TaskKey& b) {
  return a.kind() == b.kind() && a.round() == b.round() &&
         a.attempt() == b.attempt() && a.job() == b.job();
}

}  // namespace choir::codec

#endif  // CHOIR_PROTO_CODEC_TASK_KEY_H_
