#include <iostream>
#include <memory>
#include <string>

#include "client/commands.h"
#include "client/model/model_files.h"
#include "common/runtime/posix_file_system.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"

namespace strata {
namespace {

struct DigestOptions {
  std::string model;
  std::string format = "text";
};

absl::Status Run(const DigestOptions& options) {
  runtime::PosixFileSystem files;
  STRATA_ASSIGN_OR_RETURN(const auto model, model::ModelFiles::Open(files, options.model));
  STRATA_ASSIGN_OR_RETURN(const adapter::BaseIdentity identity, model::IdentifyBase(files, *model, ""));
  if (options.format == "text") {
    std::cout << identity.Digest() << std::endl;
  } else {
    std::cout << nlohmann::json{{"digest", identity.Digest()},
                                {"weights", secure::ToHex(identity.weights)},
                                {"semantics", secure::ToHex(identity.semantics)},
                                {"encoding", identity.encoding}}
                     .dump()
              << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace

void AddDigestCommand(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<DigestOptions>();
  CLI::App* command = app.add_subcommand("digest", "The base model's digest, as a job lists it");
  command->add_option("--model", options->model, "Model folder, GGUF file, or org/name in the HF cache")->required();
  command->add_option("--format", options->format, "text or json")->check(CLI::IsMember({"text", "json"}));
  command->callback([options, &context] {
    const absl::Status status = Run(*options);
    if (!status.ok()) context.exit_code = ReportError(status, false);
  });
}

}  // namespace strata
