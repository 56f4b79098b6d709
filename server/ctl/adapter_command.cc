#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/adapter/gguf_adapter.h"
#include "common/runtime/runtime.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "nlohmann/json.hpp"
#include "server/ctl/adapter_export.h"
#include "server/ctl/commands.h"
#include "server/ctl/job_text.h"
#include "server/ctl/message_json.h"

namespace strata::ctl {
namespace {

struct ExportFlags {
  std::string source;  // JOB[@VERSION], or a PEFT directory
  std::string directory;
  std::vector<std::string> formats;  // peft | gguf: what is written; text | json: how the result prints
  bool gguf = false;
  std::string model, dtype = "f32";  // of a GGUF file
  std::string update;                // ROUND/SITE
  std::string base_model;
};

// What was written where, for the last line.
struct Exported {
  std::string what, out;
  size_t modules = 0;
  int64_t max_rank = 0;
};

std::string VersionTable(const v1::ListVersionsResponse& versions) {
  if (versions.versions().empty()) return "no versions yet\n";
  std::string text =
      absl::StrFormat("%7s %6s %6s %9s %10s %9s\n", "version", "round", "blobs", "max rank", "bytes", "loss");
  for (const v1::VersionInfo& version : versions.versions()) {
    text += absl::StrFormat("%7d %6d %6d %9d %10s %9s%s\n", version.version(), version.round(), version.blobs_size(),
                            version.max_rank(), FormatBytes(version.bytes()),
                            std::isfinite(version.loss()) ? absl::StrFormat("%.4f", version.loss()) : "-",
                            version.best() ? "  best" : "");
  }
  return text;
}

absl::Status List(const std::string& job, const CtlContext& context) {
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  STRATA_ASSIGN_OR_RETURN(const v1::ListVersionsResponse versions, client.ListVersions(job));
  std::cout << (context.json() ? MessageJson(versions) + "\n" : VersionTable(versions));
  return absl::OkStatus();
}

// JOB, JOB@best or JOB@N among the job's versions.
absl::StatusOr<v1::VersionInfo> FindVersion(const v1::ListVersionsResponse& versions, const std::string& job,
                                            const std::string& which) {
  uint32_t number = 0;
  if (!which.empty() && which != "best" && !absl::SimpleAtoi(which, &number)) {
    return absl::InvalidArgumentError(absl::StrCat("`", which, "` is no version; expected a number or `best`"));
  }
  const v1::VersionInfo* found = nullptr;
  for (const v1::VersionInfo& version : versions.versions()) {
    const bool fits = which.empty()     ? found == nullptr || version.version() > found->version()
                      : which == "best" ? version.best()
                                        : version.version() == number;
    if (fits) found = &version;
  }
  if (found == nullptr) {
    return absl::NotFoundError(absl::StrCat("job ", job, " has no ", which == "best" ? "evaluated " : "", "version",
                                            number > 0 ? absl::StrCat(" ", number) : "", "; `stratactl adapter list ",
                                            job, "` shows what it has"));
  }
  if (found->blobs().empty()) {
    return absl::NotFoundError(
        absl::StrCat("version ", found->version(), " of job ", job, " is the base model itself: it has no adapter"));
  }
  return *found;
}

// What `what` names, as flags ask for.
absl::StatusOr<Exported> Write(runtime::FileSystem& files, const ExportFlags& flags, std::string what,
                               const adapter::Adapter& adapter, adapter::PeftWriteOptions options) {
  Exported result{.what = std::move(what), .out = flags.directory, .modules = adapter.modules().size()};
  for (const adapter::Factors& module : adapter.modules()) result.max_rank = std::max(result.max_rank, module.rank);
  if (!flags.gguf) {
    if (!flags.base_model.empty()) options.base_model = flags.base_model;
    STRATA_RETURN_IF_ERROR(adapter::WritePeft(files, flags.directory, adapter, options));
    return result;
  }
  STRATA_ASSIGN_OR_RETURN(const adapter::GgufBase base, adapter::ReadGgufBase(files, flags.model));
  if (!result.out.ends_with(".gguf")) result.out = runtime::JoinPath(result.out, "adapter_model.gguf");
  STRATA_RETURN_IF_ERROR(files.MakeDirectories(runtime::DirName(result.out)));
  const auto type = flags.dtype == "f16" ? format::GgufType::kF16 : format::GgufType::kF32;
  STRATA_RETURN_IF_ERROR(adapter::WriteGgufAdapter(files, result.out, adapter, base, type));
  return result;
}

absl::StatusOr<Exported> ExportDirectory(runtime::FileSystem& files, const ExportFlags& flags) {
  STRATA_ASSIGN_OR_RETURN(const auto read, adapter::ReadPeft(files, flags.source));
  return Write(files, flags, absl::StrCat("adapter ", flags.source), read.first,
               {.base_model = read.second.base_model, .fan_in_fan_out = read.second.fan_in_fan_out});
}

absl::StatusOr<Exported> ExportVersion(AdminClient& client, runtime::FileSystem& files, const ExportFlags& flags,
                                       const std::pair<std::string, std::string>& source) {
  STRATA_ASSIGN_OR_RETURN(const v1::ListVersionsResponse versions, client.ListVersions(source.first));
  STRATA_ASSIGN_OR_RETURN(const v1::VersionInfo version, FindVersion(versions, source.first, source.second));
  std::vector<AdminClient::Blob> bytes;  // complete before anything looks into it
  for (const std::string& sha256 : version.blobs()) {
    STRATA_ASSIGN_OR_RETURN(AdminClient::Blob blob, client.ReadBlob(sha256));
    bytes.push_back(std::move(blob));
  }
  std::vector<DecodedBlob> blobs;
  for (size_t i = 0; i < bytes.size(); ++i) {
    absl::StatusOr<DecodedBlob> blob = Decode(bytes[i]);
    if (!blob.ok())
      return Annotate(blob.status(), absl::StrCat("blob ", secure::ToHex(version.blobs(static_cast<int>(i)))));
    blobs.push_back(*std::move(blob));
  }
  STRATA_ASSIGN_OR_RETURN(const adapter::Adapter adapter, Concatenate(blobs));
  return Write(files, flags, absl::StrCat("version ", version.version(), " of job ", source.first), adapter, {});
}

// The newest attempt of the round in which the site's update was accepted.
absl::StatusOr<v1::SiteRound> FindUpdate(const v1::JobReport& report, uint32_t round, const std::string& site) {
  const v1::SiteRound* found = nullptr;
  for (const v1::RoundReport& candidate : report.rounds()) {
    if (candidate.round() != round) continue;
    for (const v1::SiteRound& entry : candidate.sites()) {
      if (entry.site() == site && !entry.update_sha256().empty()) found = &entry;
    }
  }
  if (found != nullptr) return *found;
  return absl::NotFoundError(absl::StrCat("job ", report.summary().id(), " has no accepted update of site ", site,
                                          " in round ", round, "; `stratactl job show ", report.summary().id(),
                                          "` shows what there is"));
}

absl::StatusOr<Exported> ExportUpdate(AdminClient& client, runtime::FileSystem& files, const ExportFlags& flags,
                                      const std::string& job) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(flags.update, absl::MaxSplits('/', 1));
  UpdateOrigin origin{.round = 0, .site = parts.second, .weight = 0, .base_model = flags.base_model};
  if (!absl::SimpleAtoi(parts.first, &origin.round) || origin.site.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--update: expected ROUND/SITE, found `", flags.update, "`"));
  }
  STRATA_ASSIGN_OR_RETURN(const v1::JobReport report, client.ShowJob(job));
  STRATA_ASSIGN_OR_RETURN(const v1::SiteRound site, FindUpdate(report, origin.round, origin.site));
  origin.weight = site.weight();
  STRATA_ASSIGN_OR_RETURN(const AdminClient::Blob blob, client.ReadBlob(site.update_sha256()));
  STRATA_RETURN_IF_ERROR(WriteUpdate(files, flags.directory, blob, origin));
  STRATA_ASSIGN_OR_RETURN(const adapter::Manifest manifest, adapter::ParseManifest(blob.manifest));
  Exported result{.what = absl::StrCat("the update of site ", origin.site, " in round ", origin.round, " of job ", job),
                  .out = flags.directory,
                  .modules = manifest.blocks.size()};
  for (const adapter::PairBlock& block : manifest.blocks) result.max_rank = std::max(result.max_rank, block.rank);
  return result;
}

absl::Status CheckFlags(const ExportFlags& flags) {
  if (!flags.update.empty() && flags.source.find('@') != std::string::npos) {
    return absl::InvalidArgumentError("--update goes with a JOB alone, without @VERSION");
  }
  if (!flags.update.empty() && flags.gguf) {
    return absl::InvalidArgumentError("--update writes what the site sent; export it and convert that directory");
  }
  if (flags.gguf && flags.model.empty()) {
    return absl::InvalidArgumentError(
        "--format gguf needs --model: names and the order of rows depend on the base model (an HF directory or a GGUF "
        "file)");
  }
  return absl::OkStatus();
}

absl::StatusOr<Exported> ExportSource(runtime::FileSystem& files, const ExportFlags& flags, const CtlContext& context) {
  if (files.Exists(runtime::JoinPath(flags.source, "adapter_config.json"))) return ExportDirectory(files, flags);
  const std::pair<std::string, std::string> source = absl::StrSplit(flags.source, absl::MaxSplits('@', 1));
  STRATA_ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(context.socket));
  if (!flags.update.empty()) return ExportUpdate(client, files, flags, source.first);
  return ExportVersion(client, files, flags, source);
}

absl::Status Export(const ExportFlags& flags, const CtlContext& context) {
  runtime::SystemRuntime system(1);
  STRATA_RETURN_IF_ERROR(CheckFlags(flags));
  STRATA_ASSIGN_OR_RETURN(const Exported result, ExportSource(system.get().files, flags, context));
  if (context.json()) {
    const nlohmann::ordered_json json = {
        {"out", result.out}, {"modules", result.modules}, {"max_rank", result.max_rank}};
    std::cout << json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
  } else {
    std::cout << absl::StrCat(result.what, ": ", result.modules, " modules, rank up to ", result.max_rank,
                              ", written to ", result.out, "\n");
  }
  return absl::OkStatus();
}

}  // namespace

void AddAdapterCommand(CLI::App& app, CtlContext& context) {
  CLI::App* adapter = app.add_subcommand("adapter", "The versions that jobs made");
  adapter->require_subcommand(1)->fallthrough();

  const auto job = std::make_shared<std::string>();
  CLI::App* list = adapter->add_subcommand("list", "A job's versions, with their held-out loss where it was measured");
  list->fallthrough()->add_option("JOB", *job, "The job, as `job list` shows it")->required();
  list->callback([job, &context] {
    if (absl::Status status = List(*job, context); !status.ok()) Report(status, context);
  });

  const auto flags = std::make_shared<ExportFlags>();
  CLI::App* write = adapter->add_subcommand(
      "export", "Write a version, a site's update, or a PEFT directory (offline) as a PEFT directory or for llama.cpp");
  write->fallthrough()
      ->add_option("SOURCE", flags->source, "JOB (its last version), JOB@VERSION, JOB@best, or a PEFT directory")
      ->required();
  write
      ->add_option(
          "DIR", flags->directory,
          "Where to write adapter_config.json and adapter_model.safetensors, or adapter_model.gguf (a name that "
          "ends in .gguf is the file's own)")
      ->required();
  write
      ->add_option(
          "--format", flags->formats,
          "What is written: peft (the default) or gguf; text and json say how the result prints, as everywhere")
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"peft", "gguf", "text", "json"}));
  write->add_option("--model", flags->model, "For gguf: the base model, an HF directory or a GGUF file");
  write->add_option("--dtype", flags->dtype, "For gguf: of the factors")
      ->check(CLI::IsMember({"f32", "f16"}))
      ->capture_default_str();
  write->add_option("--update", flags->update, "ROUND/SITE: what that site sent, with manifest.json beside it");
  write->add_option("--base-model", flags->base_model,
                    "base_model_name_or_path of adapter_config.json (default: empty)");
  write->callback([flags, &context] {
    for (const std::string& word : flags->formats) {
      const bool printing = word == "text" || word == "json";
      if (printing) context.format = word;
      if (!printing) flags->gguf = word == "gguf";
    }
    if (absl::Status status = Export(*flags, context); !status.ok()) Report(status, context);
  });
}

}  // namespace strata::ctl
