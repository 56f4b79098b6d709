// A base model that stays in memory between runs, with its tokenizer.
#ifndef STRATA_CLIENT_TRAIN_LOADED_MODEL_H_
#define STRATA_CLIENT_TRAIN_LOADED_MODEL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/data/dataset.h"
#include "client/data/tokenizer.h"
#include "client/model/transformer.h"
#include "common/config/options.h"
#include "common/runtime/file_system.h"

namespace strata::train {

struct LoadedModel {
  std::string path, device_word;  // as asked for
  config::ComputeDType dtype = config::ComputeDType::kFp32;
  std::unique_ptr<model::Transformer> transformer;
  std::unique_ptr<data::Tokenizer> tokenizer;  // null when the model comes without one
  absl::Status tokenizer_status;               // why
};

// At most one model at a time. Not thread-safe.
class ModelCache {
 public:
  // `threads`: 0 = all cores.
  ModelCache(runtime::FileSystem& files, int threads) : files_(files), threads_(threads) {}
  // The model asked for before, else loads it in place of that one. Errors of ModelFiles::Open, ResolveDevice and
  // Transformer::Load.
  absl::StatusOr<LoadedModel*> Get(const std::string& path, config::ComputeDType dtype, const std::string& device);
  // Rows of a file with the model's tokenizer, cut to the options' length.
  absl::StatusOr<data::Dataset> ReadRows(const LoadedModel& model, const std::string& path, uint32_t max_length);

 private:
  runtime::FileSystem& files_;
  int threads_;
  std::unique_ptr<LoadedModel> loaded_;
};

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_LOADED_MODEL_H_
