#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config/chat_templates.h"
#include "common/config/units.h"
#include "common/config/validate.h"

namespace strata::config {
namespace {

// Rows of a step are counted in 32 bits.
constexpr uint64_t kMaxStepRows = UINT32_MAX;

ModuleSelector ReadSelector(const google::protobuf::RepeatedPtrField<std::string>& names, bool one_string,
                            bool is_target, const Section& section) {
  const std::string key = is_target ? "target_modules" : "exclude_modules";
  ModuleSelector selector;
  for (const std::string& name : names) {
    if (name.empty()) section.Fault(key, absl::StrCat("`", key, "` holds an empty name"));
  }
  if (!one_string) {
    selector.suffixes.assign(names.begin(), names.end());
  } else if (names.size() == 1 && names[0] == "all-linear" && is_target) {
    selector.all_linear = true;
  } else if (names.size() == 1) {
    selector.expression = names[0];
  }
  return selector;
}

AdapterOptions ValidateAdapter(const v1::AdapterConfig& proto, const Section& section) {
  AdapterOptions options;
  options.specified = true;
  if (proto.has_rank()) options.rank = proto.rank();
  section.RequireAtLeast("rank", options.rank, 1);
  section.Require(options.rank <= kMaxRank, "rank", options.rank, absl::StrCat("at most ", kMaxRank));
  if (proto.has_alpha()) options.alpha = proto.alpha();
  section.Require(options.alpha > 0, "alpha", options.alpha, "a number greater than 0");
  if (proto.target_modules_size() > 0) {
    options.target_modules = ReadSelector(proto.target_modules(), proto.target_is_expression(), true, section);
  } else if (section.Given("target_modules")) {
    section.Refuse("target_modules", "an empty list", "`all-linear`, a regular expression, or names of modules");
  }
  options.exclude_modules = ReadSelector(proto.exclude_modules(), proto.exclude_is_expression(), false, section);
  options.layers_to_transform.assign(proto.layers_to_transform().begin(), proto.layers_to_transform().end());
  if (!options.layers_to_transform.empty() && !options.target_modules.expression.empty()) {
    section.Fault("layers_to_transform",
                  "`layers_to_transform` contradicts a regular expression in `target_modules`: "
                  "name the layers in the expression, or list the modules");
  }
  for (const v1::RankPattern& entry : proto.rank_pattern()) {
    const std::string path = absl::StrCat("rank_pattern[", options.rank_pattern.size(), "]");
    if (entry.value() < 1 || entry.value() > kMaxRank) {
      section.Fault(path, absl::StrCat("`", entry.key(), "` has rank ", entry.value(), "; expected ",
                                       entry.value() < 1 ? "at least 1" : absl::StrCat("at most ", kMaxRank)));
    }
    options.rank_pattern.emplace_back(entry.key(), entry.value());
  }
  for (const v1::AlphaPattern& entry : proto.alpha_pattern()) {
    const std::string path = absl::StrCat("alpha_pattern[", options.alpha_pattern.size(), "]");
    if (!(entry.value() > 0)) {
      section.Fault(path, absl::StrCat("`", entry.key(), "` has alpha ", FormatNumber(entry.value()),
                                       "; expected a number greater than 0"));
    }
    options.alpha_pattern.emplace_back(entry.key(), entry.value());
  }
  options.use_rslora = proto.use_rslora();
  options.use_dora = proto.use_dora();
  options.dropout = proto.dropout();
  section.Require(options.dropout >= 0 && options.dropout < 1, "dropout", options.dropout,
                  "a number from 0 to below 1");
  return options;
}

Schedule ToSchedule(v1::Schedule schedule) {
  if (schedule == v1::CONSTANT) return Schedule::kConstant;
  return schedule == v1::COSINE ? Schedule::kCosine : Schedule::kLinear;
}

OptimizerOptions ValidateOptimizer(const v1::OptimizerConfig& proto, const Section& section) {
  OptimizerOptions options;
  if (proto.has_learning_rate()) options.learning_rate = proto.learning_rate();
  section.Require(options.learning_rate > 0, "learning_rate", options.learning_rate, "a number greater than 0");
  if (proto.betas_size() == 2) {
    options.beta1 = proto.betas(0);
    options.beta2 = proto.betas(1);
  } else if (proto.betas_size() > 0 || section.Given("betas")) {
    section.Fault("betas",
                  absl::StrCat("`betas` has ", proto.betas_size(), " numbers; expected two such as [0.9, 0.999]"));
  }
  for (const double beta : {options.beta1, options.beta2}) {
    section.Require(beta >= 0 && beta < 1, "betas", beta, "numbers from 0 to below 1");
  }
  if (proto.has_epsilon()) options.epsilon = proto.epsilon();
  section.Require(options.epsilon > 0, "epsilon", options.epsilon, "a number greater than 0");
  options.weight_decay = proto.weight_decay();
  section.Require(options.weight_decay >= 0, "weight_decay", options.weight_decay, "0 or more");
  if (proto.has_max_grad_norm()) options.max_grad_norm = proto.max_grad_norm();
  section.Require(options.max_grad_norm >= 0, "max_grad_norm", options.max_grad_norm, "0 (no clipping) or more");
  options.schedule = ToSchedule(proto.schedule());
  options.warmup_steps = proto.warmup_steps();
  return options;
}

NonFinitePolicy ReadNonFinite(const std::string& word, const Section& section) {
  section.RequireWord("on_non_finite", word, {"stop", "skip", "halve_scale"});
  if (word == "skip") return NonFinitePolicy::kSkip;
  return word == "halve_scale" ? NonFinitePolicy::kHalveScale : NonFinitePolicy::kStop;
}

void CheckChatTemplate(const std::string& text, const Section& section) {
  const std::vector<std::string> words(kChatTemplateWords.begin(), kChatTemplateWords.end());
  const bool is_source = IsJinja(text) || text.empty();
  if (is_source || std::find(words.begin(), words.end(), text) != words.end()) return;
  section.Refuse(
      "chat_template", absl::StrCat("`", text.substr(0, 60), "`"),
      absl::StrCat("Jinja, or one of ", absl::StrJoin(words, ", "), "; did you mean `", Nearest(text, words), "`?"));
}

}  // namespace

TrainOptions ValidateTrain(const v1::TrainConfig& proto, const Section& section) {
  TrainOptions options;
  if (proto.has_adapter()) options.adapter = ValidateAdapter(proto.adapter(), section.Sub("adapter"));
  options.optimizer = ValidateOptimizer(proto.optimizer(), section.Sub("optimizer"));
  if (proto.has_steps()) {
    options.steps = proto.steps();
    section.RequireAtLeast("steps", proto.steps(), 1);
  }
  if (proto.has_epochs()) {
    options.epochs = proto.epochs();
    section.Require(options.epochs > 0, "epochs", options.epochs, "a number greater than 0");
    if (proto.has_steps()) section.Fault("epochs", "`epochs` contradicts `steps`; keep one of them");
  }
  if (proto.has_batch_size()) options.batch_size = proto.batch_size();
  section.RequireAtLeast("batch_size", options.batch_size, 1);
  if (proto.has_max_length()) options.max_length = proto.max_length();
  // A document's first token is never a target.
  section.RequireAtLeast("max_length", options.max_length, 2);
  if (proto.has_pack()) options.pack = proto.pack();
  if (proto.has_shuffle()) options.shuffle = proto.shuffle();
  if (proto.has_seed()) options.seed = proto.seed();
  if (proto.has_dtype()) {
    section.RequireWord("dtype", proto.dtype(), {kComputeDTypeWords.begin(), kComputeDTypeWords.end()});
    options.dtype = ParseComputeDType(proto.dtype());
  }
  if (proto.has_gradient_accumulation_steps()) {
    options.gradient_accumulation_steps = proto.gradient_accumulation_steps();
    section.RequireAtLeast("gradient_accumulation_steps", options.gradient_accumulation_steps, 1);
    const uint64_t rows = uint64_t{options.gradient_accumulation_steps} * options.batch_size;
    section.Require(rows <= kMaxStepRows, "gradient_accumulation_steps", options.gradient_accumulation_steps,
                    absl::StrCat("at most ", kMaxStepRows, " rows a step together with batch_size"));
  }
  options.gradient_checkpointing = proto.gradient_checkpointing();
  if (proto.has_checkpoint_steps()) options.checkpoint_steps = proto.checkpoint_steps();
  if (proto.has_max_memory()) {
    options.max_memory = proto.max_memory();
    section.RequireAtLeast("max_memory", options.max_memory, 1);
  }
  if (proto.has_on_non_finite()) options.on_non_finite = ReadNonFinite(proto.on_non_finite(), section);
  if (proto.has_device()) options.device = proto.device();
  if (!IsDevice(options.device)) {
    section.Refuse("device", absl::StrCat("`", options.device, "`"), "auto, cpu, cuda or cuda:N");
  }
  if (proto.has_base_dtype()) {
    section.RequireWord("base_dtype", proto.base_dtype(), {kBaseDTypeWords.begin(), kBaseDTypeWords.end()});
    options.base_dtype = ParseBaseDType(proto.base_dtype());
  }
  const std::string fault = PrecisionFault(options.precision(), options.device != "cpu");
  if (!fault.empty()) section.Fault(proto.has_base_dtype() ? "base_dtype" : "dtype", fault);
  options.host_layers = proto.host_layers();
  if (options.host_layers > 0 && options.device == "cpu")
    section.Fault("host_layers", "`host_layers` is for CUDA devices: leave it out, or set device: cuda");
  if (proto.has_on_bad_row()) {
    section.RequireWord("on_bad_row", proto.on_bad_row(), {"skip", "stop"});
    options.skip_bad_rows = proto.on_bad_row() == "skip";
  }
  if (proto.has_on_long_row()) {
    section.RequireWord("on_long_row", proto.on_long_row(), {"truncate", "split"});
    options.split_long_rows = proto.on_long_row() == "split";
  }
  options.chat_template = proto.chat_template();
  CheckChatTemplate(options.chat_template, section);
  return options;
}

}  // namespace strata::config
