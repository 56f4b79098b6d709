// Any bytes as rows of JSONL: every row that is taken has ids in range and as many labels.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "client/data/dataset.h"
#include "client/data/row_reader.h"
#include "client/data/row_source.h"
#include "tests/fuzz/require.h"

namespace {

// A letter a token.
class Letters : public strata::data::Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text, bool add_special) const override {
    std::vector<int32_t> ids;
    if (add_special) ids.push_back(1);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string Decode(const std::vector<int32_t>& /*ids*/, bool /*skip_special*/) const override { return ""; }
  int32_t vocab_size() const override { return 256; }
  std::optional<int32_t> eos_id() const override { return 2; }
  std::optional<int32_t> bos_id() const override { return 1; }
  std::string Canonical() const override { return ""; }
};

void RequireIds(const std::vector<int32_t>& ids) {
  STRATA_REQUIRE(!ids.empty());
  for (const int32_t id : ids) STRATA_REQUIRE(id >= 0 && id < 250);
}

// The same bytes as one row of the other kinds.
void ReadOtherRows(std::string_view text, const strata::data::Tokenizer* tokenizer) {
  const strata::data::RowReader reader{
      .tokenizer = tokenizer, .vocab_size = 250, .chat = nullptr, .no_chat = absl::NotFoundError("none")};
  const auto json = strata::data::ParseRow(text);
  STRATA_REQUIRE(json.ok() || absl::IsInvalidArgument(json.status()));
  if (!json.ok()) return;
  for (const auto form : {strata::data::PromptForm::kText, strata::data::PromptForm::kUserTurn}) {
    const auto prompt = reader.ReadPrompt(*json, form);
    STRATA_REQUIRE(prompt.ok() || absl::IsInvalidArgument(prompt.status()));
    if (prompt.ok()) RequireIds(*prompt);
  }
  const auto row = reader.ReadChoices(*json);
  STRATA_REQUIRE(row.ok() || absl::IsInvalidArgument(row.status()));
  if (!row.ok()) return;
  RequireIds(row->question);
  STRATA_REQUIRE(row->choices.size() >= 2 && row->answer < row->choices.size());
  for (const auto& choice : row->choices) RequireIds(choice.ids);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Letters letters;
  for (const strata::data::Tokenizer* tokenizer : {static_cast<const strata::data::Tokenizer*>(&letters), {}}) {
    ReadOtherRows(text, tokenizer);
    auto parsed = strata::data::ParseJsonl(text, "fuzz", tokenizer, 250, {.max_length = 32});
    if (!parsed.ok()) {
      STRATA_REQUIRE(absl::IsInvalidArgument(parsed.status()));
      continue;
    }
    std::vector<strata::data::Example> rows;
    for (size_t i = 0; i < parsed->rows.size(); ++i) {
      const strata::data::Example row = parsed->rows[i];
      STRATA_REQUIRE(row.ids.size() <= 32 && row.labels.size() == row.ids.size() && row.num_targets() > 0);
      STRATA_REQUIRE(row.position_ids.empty() || row.position_ids.size() == row.ids.size());
      for (const int32_t id : row.ids) STRATA_REQUIRE(id >= 0 && id < 250);
      for (const int32_t label : row.labels) STRATA_REQUIRE(label == -100 || (label >= 0 && label < 250));
      rows.push_back(row);
    }
    const auto packed = strata::data::Pack(strata::data::Pointers(rows));
    STRATA_REQUIRE(packed.ids.size() == packed.targets.size() && packed.starts.size() == rows.size() + 1);
    const auto sides = parsed->rows.Split(0.5, 7);
    STRATA_REQUIRE(sides.first.size() + sides.second.size() == rows.size());
  }
  return 0;
}
