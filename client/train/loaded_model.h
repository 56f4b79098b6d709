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

// How a file's rows are read.
struct RowPolicy {
  uint32_t max_length = 1024;
  bool skip_bad_rows = false;
  bool split_long_rows = false;
  std::string chat_template = {};  // as data::ChatTemplate::Open takes it
  std::string scratch = {};        // folder for tokens that memory should not hold; empty: it holds them all
};
RowPolicy RowPolicyOf(const config::TrainOptions& options, std::string scratch);

// Where a model is held and computed with.
struct ModelPlace {
  std::string device;       // as model::ResolveDevice takes it
  int64_t host_layers = 0;  // of its layers, how many have their matrices in the host's memory
  bool operator==(const ModelPlace&) const = default;
};

struct LoadedModel {
  std::string path;  // as asked for
  ModelPlace place;
  config::Precision precision = config::ComputeDType::kFp32;
  std::unique_ptr<model::Transformer> transformer;
  std::unique_ptr<data::Tokenizer> tokenizer;  // null when the model comes without one
  absl::Status tokenizer_status;               // why
};
// `status` of reading rows, or why the model's tokenizer cannot be used, which is then what is wrong with them.
absl::Status ExplainRows(const LoadedModel& model, absl::Status status);

// Errors of data::OpenTokenizer, and INVALID_ARGUMENT: a token of the vocabulary has no row in the model's embedding.
// An added one may lack it (Gemma 3's tokenizer has such a token); that is a fault of the row that has it.
absl::StatusOr<std::unique_ptr<data::Tokenizer>> OpenTokenizerOf(runtime::FileSystem& files,
                                                                 const model::ModelFiles& model);

// At most one model at a time. Not thread-safe.
class ModelCache {
 public:
  // `threads`: 0 = all cores.
  ModelCache(runtime::FileSystem& files, int threads) : files_(files), threads_(threads) {}
  // The model asked for before, else loads it in place of that one. Errors of ModelFiles::Open, ResolveDevice and
  // Transformer::Load.
  absl::StatusOr<LoadedModel*> Get(const std::string& path, const config::Precision& precision,
                                   const ModelPlace& place);
  // Rows of a file with the model's tokenizer and chat template. Where that asks for the date it is the file's, so that
  // the same files give the same tokens on any day. Errors of data::ReadDataset.
  absl::StatusOr<data::Dataset> ReadRows(const LoadedModel& model, const std::string& path, const RowPolicy& policy);

 private:
  runtime::FileSystem& files_;
  int threads_;
  std::unique_ptr<LoadedModel> loaded_;
};

}  // namespace strata::train

#endif  // STRATA_CLIENT_TRAIN_LOADED_MODEL_H_
