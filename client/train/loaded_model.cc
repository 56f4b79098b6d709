#include "client/train/loaded_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "client/data/chat_template.h"
#include "client/data/row_files.h"
#include "client/model/family.h"
#include "client/model/model_files.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::train {

absl::StatusOr<std::unique_ptr<data::Tokenizer>> OpenTokenizerOf(runtime::FileSystem& files,
                                                                 const model::ModelFiles& model) {
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<data::Tokenizer> tokenizer, data::OpenTokenizer(files, model.path()));
  const data::Tokenizer::Last last = tokenizer->last_of_vocabulary();
  const int64_t rows = model.config().vocab_size;
  if (last.id < rows) return tokenizer;
  const std::string inside = runtime::JoinPath(model.path(), "tokenizer.json");
  const model::Family& family = model::FamilyOf(model.config());
  return absl::InvalidArgumentError(
      Cat(files.Exists(inside) ? inside : model.path(), ": expected ids below ", rows, ", the rows of ", family.prefix,
          family.embedding, ".weight, found '", last.token, "' with id ", last.id,
          ": the tokenizer is of another model; take the one that came with the weights"));
}

absl::StatusOr<LoadedModel*> ModelCache::Get(const std::string& path, const config::Precision& precision,
                                             const ModelPlace& place) {
  if (loaded_ != nullptr && loaded_->path == path && loaded_->precision == precision && loaded_->place == place)
    return loaded_.get();
  loaded_.reset();  // two models need not fit
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<model::ModelFiles> files, model::ModelFiles::Open(files_, path));
  STRATA_ASSIGN_OR_RETURN(const at::Device where, model::ResolveDevice(place.device));
  auto loaded = std::make_unique<LoadedModel>();
  loaded->path = path;
  loaded->place = place;
  loaded->precision = precision;
  absl::StatusOr<std::unique_ptr<data::Tokenizer>> tokenizer = OpenTokenizerOf(files_, *files);
  loaded->tokenizer_status = tokenizer.status();
  if (tokenizer.ok()) loaded->tokenizer = *std::move(tokenizer);
  STRATA_ASSIGN_OR_RETURN(loaded->transformer,
                          model::Transformer::Load(std::move(files), precision, where, threads_, place.host_layers));
  loaded_ = std::move(loaded);
  return loaded_.get();
}

absl::Status ExplainRows(const LoadedModel& model, absl::Status status) {
  if (model.tokenizer != nullptr || absl::IsNotFound(model.tokenizer_status)) return status;
  return Annotate(model.tokenizer_status, "the model's tokenizer cannot be used");
}

RowPolicy RowPolicyOf(const config::TrainOptions& options, std::string scratch) {
  return {.max_length = options.max_length,
          .skip_bad_rows = options.skip_bad_rows,
          .split_long_rows = options.split_long_rows,
          .chat_template = options.chat_template,
          .scratch = std::move(scratch)};
}

absl::StatusOr<data::Dataset> ModelCache::ReadRows(const LoadedModel& model, const std::string& path,
                                                   const RowPolicy& policy) {
  const int64_t vocabulary = model.transformer->config().vocab_size;
  STRATA_ASSIGN_OR_RETURN(const std::vector<std::string> paths, data::RowFiles(files_, path));
  absl::Time modified = absl::InfinitePast();
  for (const std::string& file : paths) {
    STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files_.Stat(file));
    modified = std::max(modified, info.modified);
  }
  auto chat = data::ChatTemplate::Open(files_, model.transformer->files().path(), policy.chat_template);
  if (!chat.ok() && !policy.chat_template.empty()) return chat.status();
  if (chat.ok()) chat->SetNow(modified, absl::UTCTimeZone());
  const data::DatasetOptions options{.max_length = policy.max_length,
                                     .skip_bad_rows = policy.skip_bad_rows,
                                     .split_long_rows = policy.split_long_rows,
                                     .chat = chat.ok() ? &*chat : nullptr,
                                     .no_chat = chat.status(),
                                     .scratch = policy.scratch};
  auto rows = data::ReadDataset(files_, path, model.tokenizer.get(), vocabulary, options);
  if (!rows.ok()) return ExplainRows(model, rows.status());
  return rows;
}

}  // namespace strata::train
