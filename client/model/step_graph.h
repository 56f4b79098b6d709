// A training step's launches on a CUDA device, recorded once for each shape of a batch and replayed for the next ones:
// a small step costs what its kernels take, not what starting them takes. Only in a build with STRATA_CUDA.
#ifndef STRATA_CLIENT_MODEL_STEP_GRAPH_H_
#define STRATA_CLIENT_MODEL_STEP_GRAPH_H_

#include <ATen/core/Tensor.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "client/data/dataset.h"
#include "client/model/arena.h"
#include "client/model/pass_inputs.h"

namespace strata::model {

class StepGraphs {
 public:
  // Starts forward and backward of a batch on the device, waits for nothing, and returns nll of inputs.rows(). Whatever
  // it reads beside `inputs` keeps its place until Clear().
  using Step = std::function<at::Tensor(const PassInputs& inputs)>;

  struct Options {
    bool recompute = false;
    double dropout = 0;                                // its probability
    auto operator<=>(const Options&) const = default;  // NOLINT(modernize-use-nullptr): the 0 is the compiler's
  };

  // `config`, `arena` and `tables` are the steps' own and outlive this object.
  StepGraphs(const ModelConfig& config, Arena& arena, TurnTables& tables, at::Device device);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // Runs `step`, which differs between calls in nothing but its inputs and `options`, over `batch` padded to a shape
  // that many batches share; the padding has no targets. The first time that a shape comes, launch by launch; from the
  // second time on from its graph. A step that cannot be recorded is always started launch by launch. Returns the
  // step's nll, good until the next call; rows beyond the batch's targets are zero.
  at::Tensor Run(const data::PackedBatch& batch, const PassInputs::Step& values, const Options& options,
                 const Step& step);
  // What steps read moved.
  void Clear();
  // How many shapes have a graph.
  size_t recorded() const;

 private:
  struct Shape {
    int64_t tokens = 0, documents = 0, longest = 0, loss_rows = 0;
    Options options;
    auto operator<=>(const Shape&) const = default;  // NOLINT(modernize-use-nullptr): the 0 is the compiler's
  };
  struct Entry;
  static Shape ShapeOf(const data::PackedBatch& batch, const Options& options);
  static void Pad(const Shape& shape, const data::PackedBatch& batch, data::PackedBatch& out);
  void Record(Entry& entry, const Step& step);
  void MakeRoom();

  const ModelConfig& config_;
  Arena& arena_;
  TurnTables& tables_;
  at::Device device_;
  std::map<Shape, std::unique_ptr<Entry>> entries_;
  uint64_t arena_generation_ = 0, uses_ = 0;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_STEP_GRAPH_H_
