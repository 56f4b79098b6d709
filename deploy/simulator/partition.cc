#include "deploy/simulator/partition.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/runtime/random.h"
#include "nlohmann/json.hpp"

namespace strata::sim {
namespace {

using nlohmann::json;
using runtime::Philox;
using runtime::RandomKey;

struct Row {
  std::string_view text;
  size_t line = 0;
  std::string value;  // of the key
};

// Draws from one stream, one after another.
class Draws {
 public:
  explicit Draws(const RandomKey& key) : philox_(key) {}
  double Uniform() { return (philox_.Uniform(next_++) + 0.5 / (1 << 24)); }  // (0, 1)
  double Normal() { return philox_.Normal(next_++); }
  // Marsaglia and Tsang, "A simple method for generating gamma variables", TOMS 2000.
  double Gamma(double shape) {
    if (shape < 1) return Gamma(shape + 1) * std::pow(Uniform(), 1 / shape);
    const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
    while (true) {
      const double x = Normal(), v = std::pow(1 + c * x, 3);
      if (v > 0 && std::log(Uniform()) < 0.5 * x * x + d * (1 - v + std::log(v))) return d * v;
    }
  }

 private:
  Philox philox_;
  uint64_t next_ = 0;
};

absl::StatusOr<std::vector<Row>> ReadRows(std::string_view jsonl, std::string_view place, const std::string& key) {
  std::vector<Row> rows;
  size_t begin = 0;
  for (size_t line = 1; begin < jsonl.size(); ++line) {
    const size_t end = std::min(jsonl.find('\n', begin), jsonl.size());
    const std::string_view text = jsonl.substr(begin, end - begin);
    begin = end + 1;
    if (std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c) != 0; })) continue;
    Row row{.text = text, .line = line, .value = {}};
    if (!key.empty()) {
      const json parsed = json::parse(text, nullptr, false);
      const std::string where = absl::StrCat(std::string(place), ":", line);
      if (!parsed.is_object()) return absl::InvalidArgumentError(absl::StrCat(where, ": expected a JSON object"));
      const auto value = parsed.find(key);
      if (value == parsed.end()) {
        return absl::InvalidArgumentError(absl::StrCat(where, ": expected the field `", key, "` of sites.key"));
      }
      row.value = value->is_string() ? value->get<std::string>() : value->dump();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

using Members = std::vector<std::vector<size_t>>;  // row numbers of each site

Members DealOut(size_t num_rows, size_t count, uint64_t seed) {
  std::vector<uint32_t> order(num_rows);
  std::iota(order.begin(), order.end(), 0U);
  Philox(RandomKey{.purpose = "sim_partition", .seed = seed, .round = 0, .site = ""}).Permutation(order);
  Members members(count);
  for (size_t i = 0; i < num_rows; ++i) members[i % count].push_back(order[i]);
  return members;
}

// The rows of every class in random order, to be taken from the back.
std::vector<std::vector<uint32_t>> ShuffledClasses(const std::vector<Row>& rows, uint64_t seed) {
  std::map<std::string, std::vector<uint32_t>> classes;
  for (size_t i = 0; i < rows.size(); ++i) classes[rows[i].value].push_back(static_cast<uint32_t>(i));
  std::vector<std::vector<uint32_t>> shuffled;
  for (auto& [value, members] : classes) {
    Philox(RandomKey{.purpose = "sim_class", .seed = seed, .round = 0, .site = value}).Permutation(members);
    shuffled.push_back(std::move(members));
  }
  return shuffled;
}

// An index drawn by weight among the classes that still have rows; among them alike where no weight is left.
size_t Pick(const std::vector<double>& mixture, const std::vector<std::vector<uint32_t>>& classes, Draws& draws) {
  double total = 0;
  size_t num_left = 0;
  for (size_t c = 0; c < classes.size(); ++c) {
    total += classes[c].empty() ? 0 : mixture[c];
    num_left += classes[c].empty() ? 0 : 1;
  }
  double at = draws.Uniform() * (total > 0 ? total : static_cast<double>(num_left));
  size_t last = 0;
  for (size_t c = 0; c < classes.size(); ++c) {
    if (classes[c].empty()) continue;
    last = c;
    at -= total > 0 ? mixture[c] : 1;
    if (at < 0) break;
  }
  return last;
}

Members DrawMixtures(const std::vector<Row>& rows, const config::SimSitesOptions& options, uint64_t seed) {
  std::vector<std::vector<uint32_t>> classes = ShuffledClasses(rows, seed);
  Members members(options.count);
  for (uint32_t site = 0; site < options.count; ++site) {
    const std::string name = absl::StrCat(site);
    Draws draws(RandomKey{.purpose = "sim_dirichlet", .seed = seed, .round = 0, .site = name});
    std::vector<double> mixture(classes.size());
    for (double& share : mixture) share = draws.Gamma(options.concentration);
    const size_t size = rows.size() * (site + 1) / options.count - rows.size() * site / options.count;
    for (size_t i = 0; i < size; ++i) {
      std::vector<uint32_t>& taken = classes[Pick(mixture, classes, draws)];
      members[site].push_back(taken.back());
      taken.pop_back();
    }
  }
  return members;
}

bool MakesSiteName(const std::string& value) {
  return !value.empty() && value.size() <= 64 && std::isalnum(static_cast<unsigned char>(value[0])) != 0 &&
         std::all_of(value.begin(), value.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; });
}

}  // namespace

absl::StatusOr<std::vector<SiteShare>> Partition(std::string_view jsonl, std::string_view place,
                                                 const config::SimSitesOptions& options, uint64_t seed) {
  const bool by_value = options.partition != "iid";
  auto rows = ReadRows(jsonl, place, by_value ? options.key : "");
  if (!rows.ok()) return rows.status();
  if (rows->size() < options.count) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(place), ": ", rows->size(), " rows for ", options.count,
                                                   " sites; expected at least one for each"));
  }
  std::vector<std::string> values;  // in the order of the file
  std::set<std::string> known;
  for (const Row& row : *rows) {
    if (known.insert(row.value).second) values.push_back(row.value);
  }
  const bool by_key = options.partition == "key";
  if (by_key && values.size() != options.count) {
    return absl::InvalidArgumentError(absl::StrCat(
        std::string(place), ": the field `", options.key, "` has ", values.size(),
        " values; `partition: key` makes a site of each, so sites.count must be that, not ", options.count));
  }
  Members members(options.count);
  if (by_key) {
    std::map<std::string, size_t> site_of;
    for (size_t i = 0; i < values.size(); ++i) site_of[values[i]] = i;
    for (size_t i = 0; i < rows->size(); ++i) members[site_of[(*rows)[i].value]].push_back(i);
  } else {
    members = by_value ? DrawMixtures(*rows, options, seed) : DealOut(rows->size(), options.count, seed);
  }
  const bool named = by_key && std::all_of(values.begin(), values.end(), MakesSiteName);
  const int width = static_cast<int>(absl::StrCat(options.count).size());
  std::vector<SiteShare> shares(options.count);
  for (uint32_t i = 0; i < options.count; ++i) {
    shares[i].name = named ? values[i] : absl::StrFormat("site-%0*d", width, i + 1);
    shares[i].num_rows = members[i].size();
    std::sort(members[i].begin(), members[i].end());
    for (const size_t row : members[i]) shares[i].rows.append((*rows)[row].text).append("\n");
  }
  return shares;
}

}  // namespace strata::sim
