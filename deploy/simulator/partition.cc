#include "deploy/simulator/partition.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/runtime/random.h"

namespace strata::sim {
namespace {

using data::OrderedJson;
using runtime::Philox;
using runtime::RandomKey;

struct Row {
  std::string text;   // JSON
  std::string value;  // of the key
};

// A site's draws, one after another.
class Draws {
 public:
  Draws(uint64_t seed, std::string_view site)
      : uniform_({.purpose = "sim_uniform", .seed = seed, .round = 0, .site = site}),
        normal_({.purpose = "sim_normal", .seed = seed, .round = 0, .site = site}) {}

  double Uniform() { return uniform_.Uniform(num_uniform_++) + 0.5 / (1 << 24); }  // (0, 1)
  // The logarithm of a gamma variable; those of small shapes are too small for a double themselves. Marsaglia and
  // Tsang, "A simple method for generating gamma variables", TOMS 2000.
  double LogGamma(double shape) {
    if (shape < 1) return LogGamma(shape + 1) + std::log(Uniform()) / shape;
    const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
    while (true) {
      const double x = normal_.Normal(num_normal_++), v = std::pow(1 + c * x, 3);
      if (v > 0 && std::log(Uniform()) < 0.5 * x * x + d * (1 - v + std::log(v))) return std::log(d * v);
    }
  }

 private:
  Philox uniform_, normal_;
  uint64_t num_uniform_ = 0, num_normal_ = 0;
};

// Of a symmetric Dirichlet distribution, up to a factor: the largest share is 1.
std::vector<double> DrawMixture(size_t num_classes, double concentration, Draws& draws) {
  std::vector<double> mixture(num_classes);
  for (double& share : mixture) share = draws.LogGamma(concentration);
  const double largest = *std::max_element(mixture.begin(), mixture.end());
  for (double& share : mixture) share = std::exp(share - largest);
  return mixture;
}

// Appends to `rows`. Where `key` is empty, values are.
absl::StatusOr<data::BadRows> ReadRows(data::RowSource& source, const std::string& key, bool skip,
                                       std::vector<Row>& rows) {
  return data::ForEachRow(source, skip, [&](const OrderedJson& object) -> absl::Status {
    Row row{.text = object.dump(), .value = {}};
    if (!key.empty()) {
      const auto value = object.find(key);
      if (value == object.end()) {
        return absl::InvalidArgumentError(absl::StrCat("expected the field `", key, "` of sites.key"));
      }
      row.value = value->is_string() ? value->get<std::string>() : value->dump();
    }
    rows.push_back(std::move(row));
    return absl::OkStatus();
  });
}

using Members = std::vector<std::vector<size_t>>;  // row numbers of each site

Members DealOut(size_t num_rows, size_t count, uint64_t seed) {
  std::vector<uint32_t> order(num_rows);
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
  for (const auto& [value, members] : classes) {
    std::vector<uint32_t>& rows_of_class = shuffled.emplace_back(members.size());
    Philox(RandomKey{.purpose = "sim_class", .seed = seed, .round = 0, .site = value}).Permutation(rows_of_class);
    for (uint32_t& row : rows_of_class) row = members[row];
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
    Draws draws(seed, absl::StrCat(site));
    const std::vector<double> mixture = DrawMixture(classes.size(), options.concentration, draws);
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

// The values of the key, in the order of the file.
std::vector<std::string> ValuesOf(const std::vector<Row>& rows) {
  std::vector<std::string> values;
  std::set<std::string> known;
  for (const Row& row : rows) {
    if (known.insert(row.value).second) values.push_back(row.value);
  }
  return values;
}

Members GroupByValue(const std::vector<Row>& rows, const std::vector<std::string>& values) {
  std::map<std::string, size_t> site_of;
  for (size_t i = 0; i < values.size(); ++i) site_of[values[i]] = i;
  Members members(values.size());
  for (size_t i = 0; i < rows.size(); ++i) members[site_of[rows[i].value]].push_back(i);
  return members;
}

std::vector<std::string> SiteNames(const std::vector<std::string>& values, uint32_t count, bool by_key) {
  if (by_key && std::all_of(values.begin(), values.end(), MakesSiteName)) return values;
  const int width = static_cast<int>(absl::StrCat(count).size());
  std::vector<std::string> names;
  for (uint32_t i = 1; i <= count; ++i) names.push_back(absl::StrFormat("site-%0*d", width, i));
  return names;
}

}  // namespace

absl::StatusOr<Shares> Partition(data::RowSource& source, const config::SimSitesOptions& options, bool skip_bad_rows,
                                 uint64_t seed) {
  const bool by_key = options.partition == "key", by_value = options.partition != "iid";
  std::vector<Row> rows;
  auto bad = ReadRows(source, by_value ? options.key : "", skip_bad_rows, rows);
  if (!bad.ok()) return bad.status();
  if (rows.size() < options.count) {
    return absl::InvalidArgumentError(absl::StrCat(options.data, ": ", rows.size(), " rows for ", options.count,
                                                   " sites; expected at least one for each"));
  }
  const std::vector<std::string> values = ValuesOf(rows);
  if (by_key && values.size() != options.count) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.data, ": the field `", options.key, "` has ", values.size(),
        " values; `partition: key` makes a site of each, so sites.count must be that, not ", options.count));
  }
  Members members = by_key     ? GroupByValue(rows, values)
                    : by_value ? DrawMixtures(rows, options, seed)
                               : DealOut(rows.size(), options.count, seed);
  const std::vector<std::string> names = SiteNames(values, options.count, by_key);
  Shares shares{.sites = std::vector<SiteShare>(options.count), .bad = *std::move(bad)};
  for (uint32_t i = 0; i < options.count; ++i) {
    SiteShare& site = shares.sites[i];
    site.name = names[i];
    site.num_rows = members[i].size();
    std::sort(members[i].begin(), members[i].end());
    for (const size_t row : members[i]) site.rows.append(rows[row].text).append("\n");
  }
  return shares;
}

}  // namespace strata::sim
