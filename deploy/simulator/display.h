// What the terminal, or a log, shows of a simulation.
#ifndef STRATA_DEPLOY_SIMULATOR_DISPLAY_H_
#define STRATA_DEPLOY_SIMULATOR_DISPLAY_H_

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/train/local_trainer.h"
#include "proto/admin.pb.h"

namespace strata::sim {

// Writes to standard error. A committed round gets a line, wherever that goes; on a terminal one more line, rewritten
// in place, tells who is at work. Thread-safe.
class Display {
 public:
  explicit Display(bool quiet);  // quiet: shows nothing
  ~Display();                    // takes the line in place away
  Display(const Display&) = delete;
  Display& operator=(const Display&) = delete;

  void Report(const v1::JobReport& report);
  void Step(const std::string& site, const train::TrainProgress& step);

 private:
  void Redraw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const bool terminal_, quiet_;
  absl::Mutex mutex_;
  uint32_t told_ ABSL_GUARDED_BY(mutex_) = 0;  // the last round with a line
  std::string rounds_ ABSL_GUARDED_BY(mutex_), step_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_DISPLAY_H_
