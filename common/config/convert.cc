#include "common/config/convert.h"

#include <string>
#include <vector>

#include "common/config/to_proto.h"
#include "common/config/units.h"
#include "common/config/validate.h"

namespace strata::config {
namespace {

// True when the names were one string in the file.
bool SelectorToProto(const ModuleSelector& selector, google::protobuf::RepeatedPtrField<std::string>& names) {
  if (selector.all_linear) {
    *names.Add() = "all-linear";
    return true;
  }
  if (!selector.expression.empty()) {
    *names.Add() = selector.expression;
    return true;
  }
  names.Assign(selector.suffixes.begin(), selector.suffixes.end());
  return false;
}

v1::OptimizerConfig OptimizerToProto(const OptimizerOptions& options) {
  v1::OptimizerConfig proto;
  proto.set_learning_rate(options.learning_rate);
  proto.add_betas(options.beta1);
  proto.add_betas(options.beta2);
  proto.set_epsilon(options.epsilon);
  proto.set_weight_decay(options.weight_decay);
  proto.set_max_grad_norm(options.max_grad_norm);
  proto.set_schedule(options.schedule == Schedule::kConstant ? v1::CONSTANT
                     : options.schedule == Schedule::kCosine ? v1::COSINE
                                                             : v1::LINEAR);
  proto.set_warmup_steps(options.warmup_steps);
  return proto;
}

v1::RoundsConfig RoundsToProto(const RoundsOptions& options) {
  v1::RoundsConfig proto;
  proto.set_count(options.count);
  if (options.report_goal.has_value()) proto.set_report_goal(*options.report_goal);
  proto.set_min_sites(options.min_sites);
  proto.set_timeout(config::FormatDuration(options.timeout));
  proto.set_start(options.start == Start::kWarm ? v1::WARM : v1::FRESH);
  proto.set_max_attempts(options.max_attempts);
  return proto;
}

v1::AggregationConfig AggregationToProto(const AggregationOptions& options) {
  v1::AggregationConfig proto;
  proto.set_method(options.method == AggregationMethod::kFedit     ? v1::FEDIT
                   : options.method == AggregationMethod::kZeroPad ? v1::ZERO_PAD
                                                                   : v1::STACK);
  if (options.energy.has_value()) proto.set_energy(*options.energy);
  if (options.max_rank.has_value()) proto.set_max_rank(*options.max_rank);
  if (options.raw_stack) proto.set_raw_stack(true);
  if (!options.energy.has_value() && !options.max_rank.has_value() && !options.raw_stack) proto.set_exact(true);
  proto.set_server_learning_rate(options.server_learning_rate);
  proto.set_max_blobs(options.max_blobs);
  proto.set_absent_modules(options.renormalise_absent ? "renormalise" : "zero");
  if (options.compaction_max_rank.has_value()) proto.set_compaction_max_rank(*options.compaction_max_rank);
  return proto;
}

const char* NonFiniteWord(NonFinitePolicy policy) {
  if (policy == NonFinitePolicy::kSkip) return "skip";
  return policy == NonFinitePolicy::kHalveScale ? "halve_scale" : "stop";
}

template <typename Proto>
bool SameBytes(const Proto& a, const Proto& b) {
  return a.SerializeAsString() == b.SerializeAsString();
}

}  // namespace

v1::AdapterConfig AdapterToProto(const AdapterOptions& options) {
  v1::AdapterConfig proto;
  proto.set_rank(options.rank);
  proto.set_alpha(options.alpha);
  proto.set_target_is_expression(SelectorToProto(options.target_modules, *proto.mutable_target_modules()));
  proto.set_exclude_is_expression(SelectorToProto(options.exclude_modules, *proto.mutable_exclude_modules()));
  proto.mutable_layers_to_transform()->Assign(options.layers_to_transform.begin(), options.layers_to_transform.end());
  for (const auto& [key, rank] : options.rank_pattern) {
    v1::RankPattern& entry = *proto.add_rank_pattern();
    entry.set_key(key);
    entry.set_value(rank);
  }
  for (const auto& [key, alpha] : options.alpha_pattern) {
    v1::AlphaPattern& entry = *proto.add_alpha_pattern();
    entry.set_key(key);
    entry.set_value(alpha);
  }
  proto.set_use_rslora(options.use_rslora);
  proto.set_use_dora(options.use_dora);
  proto.set_dropout(options.dropout);
  return proto;
}

v1::TrainConfig ToProto(const TrainOptions& options) {
  v1::TrainConfig proto;
  v1::AdapterConfig adapter = AdapterToProto(options.adapter);
  // Whether an `adapter:` was given is itself a fact: an unspecified one travels as absent.
  if (options.adapter.specified || !SameBytes(adapter, AdapterToProto(AdapterOptions()))) {
    proto.mutable_adapter()->Swap(&adapter);
  }
  *proto.mutable_optimizer() = OptimizerToProto(options.optimizer);
  if (options.steps.has_value()) {
    proto.set_steps(*options.steps);
  } else {
    proto.set_epochs(options.epochs);
  }
  proto.set_batch_size(options.batch_size);
  proto.set_max_length(options.max_length);
  proto.set_pack(options.pack);
  proto.set_shuffle(options.shuffle);
  proto.set_seed(options.seed);
  proto.set_dtype(std::string(ComputeDTypeWord(options.dtype)));
  if (options.base_dtype.has_value()) proto.set_base_dtype(std::string(BaseDTypeWord(*options.base_dtype)));
  proto.set_device(options.device);
  proto.set_gradient_accumulation_steps(options.gradient_accumulation_steps);
  proto.set_gradient_checkpointing(options.gradient_checkpointing);
  if (options.host_layers > 0) proto.set_host_layers(options.host_layers);
  proto.set_checkpoint_steps(options.checkpoint_steps);
  proto.set_on_non_finite(NonFiniteWord(options.on_non_finite));
  if (options.max_memory > 0) proto.set_max_memory(options.max_memory);
  proto.set_on_bad_row(options.skip_bad_rows ? "skip" : "stop");
  if (options.split_long_rows) proto.set_on_long_row("split");
  if (!options.chat_template.empty()) proto.set_chat_template(options.chat_template);
  return proto;
}

v1::JobConfig ToProto(const JobOptions& options) {
  v1::JobConfig proto;
  proto.set_name(options.name);
  proto.mutable_model()->mutable_digests()->Assign(options.model_digests.begin(), options.model_digests.end());
  proto.set_data(options.data);
  proto.set_all_sites(options.sites.empty());
  proto.mutable_sites()->Assign(options.sites.begin(), options.sites.end());
  *proto.mutable_rounds() = RoundsToProto(options.rounds);
  *proto.mutable_training() = ToProto(options.training);
  *proto.mutable_aggregation() = AggregationToProto(options.aggregation);
  proto.mutable_evaluation()->set_holdout(options.evaluation.holdout);
  proto.mutable_evaluation()->set_every(options.evaluation.every);
  proto.set_max_rank(options.max_rank);
  for (const ModuleShape& module : options.modules) {
    v1::ModuleShape& shape = *proto.add_modules();
    shape.set_name(module.name);
    shape.set_out(static_cast<uint32_t>(module.out));
    shape.set_in(static_cast<uint32_t>(module.in));
  }
  return proto;
}

v1::TlsConfig TlsToProto(const TlsOptions& options) {
  v1::TlsConfig proto;
  proto.set_cert(options.cert);
  proto.set_key(options.key);
  proto.set_ca(options.ca);
  return proto;
}

v1::ServerConfig ServerToProto(const ServerOptions& options) {
  v1::ServerConfig proto;
  proto.set_listen(options.listen);
  proto.set_admin_socket(options.admin_socket);
  proto.set_state_dir(options.state_dir);
  if (options.tls.enabled()) *proto.mutable_tls() = TlsToProto(options.tls);
  proto.set_max_update_bytes(options.max_update_bytes);
  proto.set_progress_interval(config::FormatDuration(options.progress_interval));
  proto.set_liveness_timeout(config::FormatDuration(options.liveness_timeout));
  proto.set_log_level(options.log_level);
  return proto;
}

v1::ClientConfig ClientToProto(const ClientOptions& options) {
  v1::ClientConfig proto;
  proto.set_server(options.server);
  if (options.tls.enabled()) *proto.mutable_tls() = TlsToProto(options.tls);
  proto.set_state_dir(options.state_dir);
  proto.mutable_models()->insert(options.models.begin(), options.models.end());
  proto.mutable_data()->insert(options.data.begin(), options.data.end());
  proto.set_device(options.device);
  if (options.rank.has_value()) proto.set_rank(*options.rank);
  if (options.alpha.has_value()) proto.set_alpha(*options.alpha);
  if (options.max_rank.has_value()) proto.set_max_rank(*options.max_rank);
  proto.set_threads(options.threads);
  if (!options.trainer_command.empty()) {
    proto.mutable_trainer()->mutable_command()->Assign(options.trainer_command.begin(), options.trainer_command.end());
  }
  proto.set_log_level(options.log_level);
  proto.set_name(options.name);
  if (options.max_rounds.has_value()) proto.set_max_rounds(*options.max_rounds);
  return proto;
}

v1::SimConfig SimToProto(const SimOptions& options) {
  v1::SimConfig proto;
  *proto.mutable_job() = ToProto(options.job);
  proto.mutable_job()->set_all_sites(false);
  v1::SimSitesConfig& sites = *proto.mutable_sites();
  sites.set_count(options.sites.count);
  sites.mutable_ranks()->Assign(options.sites.ranks.begin(), options.sites.ranks.end());
  sites.set_data(options.sites.data);
  sites.set_partition(options.sites.partition);
  sites.set_concentration(options.sites.concentration);
  sites.set_key(options.sites.key);
  proto.set_model(options.model);
  proto.set_out(options.out);
  proto.set_seed(options.seed);
  proto.set_threads(options.threads);
  proto.set_single_sites(options.single_sites);
  return proto;
}

absl::StatusOr<TrainOptions> FromProto(const v1::TrainConfig& proto) {
  Faults faults("");
  TrainOptions options = ValidateTrain(proto, Section(faults, ""));
  if (!faults.empty()) return faults.ToStatus();
  return options;
}

absl::StatusOr<JobOptions> FromProto(const v1::JobConfig& proto) {
  Faults faults("");
  JobOptions options = ValidateJob(proto, Section(faults, ""));
  if (!faults.empty()) return faults.ToStatus();
  return options;
}

}  // namespace strata::config
