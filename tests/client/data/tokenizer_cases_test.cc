// Small tokenizers of every kind against what the `tokenizers` library made of them: testdata/make.py.
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "client/data/tokenizer.h"
#include "nlohmann/json.hpp"

namespace strata::data {
namespace {

using Json = nlohmann::json;

template <typename T>
T ValueOr(const Json& row, const char* key, const T& usual) {
  return row.contains(key) ? row[key].get<T>() : usual;
}

void Compare(const Tokenizer& tokenizer, const std::string& text, const Json& row, const std::string& what) {
  const auto ids = row["ids"].get<std::vector<int32_t>>();
  const auto with_special = ValueOr(row, "ids_with_special", ids);
  const auto decoded = ValueOr(row, "decoded", text);
  EXPECT_EQ(tokenizer.Encode(text, false), ids) << what;
  EXPECT_EQ(tokenizer.Encode(text, true), with_special) << what;
  EXPECT_EQ(tokenizer.Decode(ids, false), decoded) << what;
  EXPECT_EQ(tokenizer.Decode(with_special, true), ValueOr(row, "decoded_skip_special", decoded)) << what;
}

TEST(TokenizerCases, MatchReference) {
  std::ifstream in(std::string(STRATA_SOURCE_DIR) + "/tests/client/data/testdata/tokenizers.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(in, line));
  const Json head = Json::parse(line);
  int num_cases = 0;
  for (; std::getline(in, line); ++num_cases) {
    const Json entry = Json::parse(line);
    Json document = entry["tokenizer"];
    document["model"] = head["models"][document["model"].get<size_t>()];
    const std::string name = entry["name"].get<std::string>() + " " + document["pre_tokenizer"].dump();
    const auto tokenizer = ParseTokenizerJson(document.dump(), "", name);
    if (!tokenizer.ok()) {
      ADD_FAILURE() << tokenizer.status();
      continue;
    }
    const Json& expected = entry["expected"];
    for (size_t i = 0; i < expected.size(); ++i) {
      const Json& text = head["texts"][i];
      if (!expected[i].is_null()) Compare(**tokenizer, text.get<std::string>(), expected[i], name + " " + text.dump());
    }
  }
  EXPECT_GT(num_cases, 120);
}

}  // namespace
}  // namespace strata::data
