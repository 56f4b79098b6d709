#include "client/command_runtime.h"

#include <cstdlib>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/strings/str_join.h"
#include "client/model/processor.h"
#include "client/model/torch_guard.h"
#include "client/peft/adapter_state.h"
#include "client/peft/lora_plan.h"
#include "common/adapter/adapter.h"
#include "common/config/config.h"
#include "common/runtime/process.h"
#include "common/status/status_macros.h"

namespace strata {
namespace {

// Signals are blocked and the processor is prepared while there is one thread.
int Prepare() {
  runtime::BlockSignals();
  model::PrepareProcessor();
  return 1;
}

}  // namespace

Interruptible::Interruptible() : system_(Prepare()) {
  system_.get().executor.Run([this] { Watch(); });
}

Interruptible::~Interruptible() {
  finished_ = true;
  runtime::Interrupt();
}

void Interruptible::Watch() {
  while (true) {
    const int signal = runtime::WaitForSignal();
    if (finished_) return;
    if (stopped()) std::_Exit(exit_code());
    signal_ = signal;
  }
}

absl::StatusOr<std::vector<model::NamedFactors>> ReadFrozen(runtime::FileSystem& files,
                                                            const std::vector<std::string>& directories,
                                                            const model::Transformer& model) {
  std::vector<model::NamedFactors> all;
  const std::vector<config::ModuleShape> modules = model.files().LinearModules();
  for (const std::string& directory : directories) {
    STRATA_ASSIGN_OR_RETURN(const auto read, adapter::ReadPeftFor(modules, files, directory));
    STRATA_ASSIGN_OR_RETURN(std::vector<model::NamedFactors> part, model::TorchGuard("reading " + directory, [&] {
                              return peft::FrozenFactors(read.first, model.device());
                            }));
    for (model::NamedFactors& f : part) all.push_back(std::move(f));
  }
  return all;
}

absl::StatusOr<std::vector<train::Target>> PlanFrozen(runtime::FileSystem& files,
                                                      const std::vector<std::string>& directories,
                                                      const std::vector<config::ModuleShape>& modules) {
  std::vector<train::Target> all;
  for (const std::string& directory : directories) {
    STRATA_ASSIGN_OR_RETURN(const auto read, adapter::ReadPeftFor(modules, files, directory));
    auto part = peft::PlanFromAdapter(read.first, modules);
    if (!part.ok()) return Annotate(part.status(), directory);
    all.insert(all.end(), part->begin(), part->end());
  }
  return all;
}

void NoteIdleTargets(const config::AdapterOptions& options, const std::vector<config::ModuleShape>& modules) {
  const std::vector<std::string> idle = peft::IdleTargets(options, modules);
  if (idle.empty()) return;
  std::cerr << "note: adapter: no linear module of the model is called " << absl::StrJoin(idle, ", ")
            << " (target_modules)\n";
}

absl::StatusOr<config::TrainOptions> ReadTrainOptions(runtime::FileSystem& files, const std::string& path) {
  if (path.empty()) return config::TrainOptions();
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  } else {
    STRATA_ASSIGN_OR_RETURN(text, files.ReadFile(path));
  }
  return config::ParseTrain(text, path == "-" ? "standard input" : path);
}

absl::Status SetPrecision(const std::string& dtype, const std::string& base_dtype, config::TrainOptions& options) {
  if (!dtype.empty()) options.dtype = config::ParseComputeDType(dtype);
  if (!base_dtype.empty()) options.base_dtype = config::ParseBaseDType(base_dtype);
  const std::string fault = config::PrecisionFault(options.precision(), options.device != "cpu");
  return fault.empty() ? absl::OkStatus() : absl::InvalidArgumentError(fault);
}

absl::StatusOr<config::Precision> PrecisionOf(const std::string& dtype, const std::string& base_dtype,
                                              const std::string& device) {
  config::TrainOptions options;
  options.device = device;
  STRATA_RETURN_IF_ERROR(SetPrecision(dtype, base_dtype, options));
  return options.precision();
}

}  // namespace strata
