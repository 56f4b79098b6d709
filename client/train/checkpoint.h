// Where a training run stands, on disk, so that a run that was killed goes on bit for bit.
//
//   DIRECTORY/step-<steps done, 10 digits>-<SHA-256 of the file, hex>.safetensors    the two latest checkpoints
//   DIRECTORY/finished-<SHA-256>.safetensors                                        instead: the run came to its end
//   DIRECTORY/writing                                                               one that is being written
//
// A file is a safetensors file; one whose bytes do not have the digest in its name (torn, damaged) does not count.
// Tensors, fp32, flat, in the layout of peft::AdapterState (A, then B, with DoRA then the magnitude, module after
// module, each padded to 16 elements):
//   values, first_moments, second_moments       the factors and Adam's moments; none in a finished one
//   undo_values, undo_first_moments, undo_second_moments       the same before the last update (on_non_finite:
//   halve_scale)
// Metadata: `position.NAME`, the fields of RunPosition, and `input.NAME`, what the run is made from. The position in
// the data (epoch, order, row), the dropout masks and the schedule are functions of the seed and position.steps (Philox
// is counted by element, never by state), so that nothing else has to be kept.
#ifndef STRATA_CLIENT_TRAIN_CHECKPOINT_H_
#define STRATA_CLIENT_TRAIN_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/format/safetensors.h"
#include "common/format/tensor.h"
#include "common/runtime/clock.h"
#include "common/runtime/file_system.h"

namespace strata::train {

struct RunPosition {
  uint64_t steps = 0;    // done, those passed over included: the index of the next one
  uint64_t updates = 0;  // of the optimiser
  double rate_scale = 1;
  double loss_scale = 1;      // gradients are so many times as large while they pass through fp16
  uint64_t scaled_steps = 0;  // since it last changed
  double first_loss = 0, last_loss = 0;
  uint64_t tokens = 0;
  double seconds = 0;
};

// What a run is made from, by name ("data", "optimizer.learning_rate"), as texts that change when it does. Runs with
// equal inputs compute the same on one device.
using RunInputs = std::map<std::string, std::string>;

struct SavedRun {
  RunPosition position;
  RunInputs inputs;
  bool finished = false;
  format::Safetensors tensors;  // views into `mapping`
  std::shared_ptr<const runtime::Mapping> mapping;
};

struct FoundRun {
  std::optional<SavedRun> run;       // the latest whole checkpoint
  std::vector<std::string> damaged;  // paths of those that did not count; they are removed
};

// One run at a time in one directory. Not thread-safe. Errors of the file system pass through.
class CheckpointStore {
 public:
  struct Options {
    std::string directory;
    uint32_t every_steps = 50;                // 0: never
    absl::Duration every = absl::Minutes(5);  // at least that often
    bool when_stopped = false;                // a run that is asked to stop leaves one
  };
  // `files` and `clock` are borrowed.
  CheckpointStore(runtime::FileSystem& files, const runtime::Clock& clock, Options options, RunInputs inputs);

  const Options& options() const { return options_; }
  const RunInputs& inputs() const { return inputs_; }

  absl::StatusOr<FoundRun> Latest();
  // A checkpoint is due after that many steps, or after that long without one.
  bool Due(uint64_t steps) const;
  // Durable after OK; a failure leaves the earlier ones. `tensors`: as above.
  absl::Status Save(const RunPosition& position, std::vector<format::TensorView> tensors);
  // Replaces the checkpoints by the note that the run is over.
  absl::Status Finish(const RunPosition& position);
  // Forgets the run.
  absl::Status Clear();

 private:
  absl::StatusOr<std::string> Write(const std::string& label, const RunPosition& position,
                                    std::vector<format::TensorView> tensors);
  absl::Status KeepOnly(size_t count, const std::string& label);

  runtime::FileSystem& files_;
  const runtime::Clock& clock_;
  Options options_;
  RunInputs inputs_;
  absl::Duration last_;  // when one was written, or the store made
};

// What changed between the inputs, for a message; empty: nothing.
std::vector<std::string> Differences(const RunInputs& then, const RunInputs& now);

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_CHECKPOINT_H_
