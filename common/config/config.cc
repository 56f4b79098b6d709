#include "common/config/config.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config/convert.h"
#include "common/config/message_reader.h"
#include "common/config/schema.h"
#include "common/config/to_proto.h"
#include "common/config/tree.h"
#include "common/config/validate.h"
#include "common/config/yaml_writer.h"

namespace strata::config {
namespace {

using Rewrite = void (*)(Node& root, Faults& faults);

template <typename Proto, typename Options>
absl::StatusOr<Options> Parse(std::string_view text, std::string_view place,
                              Options (*validate)(const Proto&, const Section&), Rewrite rewrite = nullptr) {
  Faults faults(place);
  Node root;
  if (!ParseTree(text, faults, root)) return faults.ToStatus();
  if (rewrite != nullptr) rewrite(root, faults);
  Proto proto;
  ReadMessage(root, faults, proto);
  Options options = validate(proto, Section(faults, ""));
  if (!faults.empty()) return faults.ToStatus();
  return options;
}

// A key of a simulation's file that belongs to its job; one that nobody knows, where a key of the job's is nearest.
bool IsOfJob(const std::string& key, bool nested) {
  const Descriptor& sim = *v1::SimConfig::descriptor();
  const Descriptor& job = *v1::JobConfig::descriptor();
  if (sim.FindFieldByName(key) != nullptr) return false;
  if (job.FindFieldByName(key) != nullptr) return true;
  std::vector<std::string> keys = KeysOf(sim);
  for (const std::string& other : KeysOf(job)) keys.push_back(other);
  return !nested && sim.FindFieldByName(Nearest(key, keys)) == nullptr;
}

// A simulation's file is a job's with `sites:` as a map and `model:` as a path: the job's other keys move into `job`.
void GatherJob(Node& root, Faults& faults) {
  const bool nested = std::ranges::any_of(root.entries, [](const Entry& e) { return e.key == "job"; });
  Entry gathered = {.key = "job", .line = 1, .value = {}};
  gathered.value.kind = Node::Kind::kMap;
  std::vector<Entry> rest;
  for (Entry& entry : root.entries) {
    (IsOfJob(entry.key, nested) ? gathered.value.entries : rest).push_back(std::move(entry));
  }
  root.entries = std::move(rest);
  if (gathered.value.entries.empty()) return;
  const auto job_entry =
      std::find_if(root.entries.begin(), root.entries.end(), [](const Entry& e) { return e.key == "job"; });
  if (job_entry != root.entries.end()) {
    std::vector<Entry>& inner = job_entry->value.entries;
    inner.insert(inner.end(), gathered.value.entries.begin(), gathered.value.entries.end());
    faults.AddAtLine(gathered.value.entries.front().line, absl::StrCat("`", gathered.value.entries.front().key,
                                                                       "` stands beside `job`; move it into `job`"));
    return;
  }
  root.entries.push_back(std::move(gathered));
}

// An adapter that was not specified shows as a comment: written out it would count as specified when read again.
std::string WithAdapterComment(std::string text, const AdapterOptions& adapter, size_t indent) {
  if (adapter.specified) return text;
  const std::string margin(indent, ' ');
  std::string comment = absl::StrCat(margin, "# adapter:  (not specified)\n");
  const std::string section = WriteYaml(AdapterToProto(adapter));
  for (const auto line : absl::StrSplit(section, '\n', absl::SkipEmpty()))
    absl::StrAppend(&comment, margin, "#   ", line, "\n");
  text.insert(text.find(absl::StrCat(margin, "optimizer:\n")), comment);
  return text;
}

void Flatten(const Node& node, const std::string& path, std::map<std::string, std::string>& settings) {
  if (node.is_scalar()) settings[path] = node.text;
  for (const Entry& entry : node.entries) Flatten(entry.value, JoinKeys(path, entry.key), settings);
  for (size_t i = 0; i < node.items.size(); ++i) Flatten(node.items[i], absl::StrCat(path, "[", i, "]"), settings);
}

}  // namespace

absl::StatusOr<ServerOptions> ParseServer(std::string_view text, std::string_view place) {
  return Parse(text, place, &ValidateServer);
}

absl::StatusOr<ClientOptions> ParseClient(std::string_view text, std::string_view place) {
  return Parse(text, place, &ValidateClient);
}

absl::StatusOr<JobOptions> ParseJob(std::string_view text, std::string_view place) {
  return Parse(text, place, &ValidateJob);
}

absl::StatusOr<TrainOptions> ParseTrain(std::string_view text, std::string_view place) {
  return Parse(text, place, &ValidateTrain);
}

absl::StatusOr<SimOptions> ParseSim(std::string_view text, std::string_view place) {
  return Parse(text, place, &ValidateSim, &GatherJob);
}

std::string PrintServer(const ServerOptions& options) { return WriteYaml(ServerToProto(options)); }

std::string PrintClient(const ClientOptions& options) { return WriteYaml(ClientToProto(options)); }

std::string PrintJob(const JobOptions& options) {
  return WithAdapterComment(WriteYaml(ToProto(options)), options.training.adapter, 2);
}

std::string PrintTrain(const TrainOptions& options) {
  return WithAdapterComment(WriteYaml(ToProto(options)), options.adapter, 0);
}

std::string PrintSim(const SimOptions& options) {
  return WithAdapterComment(WriteYaml(SimToProto(options)), options.job.training.adapter, 4);
}

std::map<std::string, std::string> SettingsOf(const TrainOptions& options) {
  Faults none("");
  Node root;
  std::map<std::string, std::string> settings;
  if (ParseTree(WriteYaml(ToProto(options)), none, root)) Flatten(root, "", settings);
  return settings;
}

}  // namespace strata::config
