// Against apply_chat_template of real models: /shared/golden/chat beside the checkout.
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "client/data/chat_rows.h"
#include "client/data/chat_template.h"
#include "common/runtime/posix_file_system.h"
#include "nlohmann/json.hpp"
#include "tests/testing/golden.h"

namespace strata::data {
namespace {

class ChatGolden : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = testing::SharedTokenizerDir(GetParam());
    golden_ = testing::FullGoldenDir("chat/" + GetParam() + ".jsonl");
    if (folder_.empty() || golden_.empty()) {
      GTEST_SKIP() << "the full golden set (../shared/golden, ../shared/tokenizers) does not lie beside the checkout";
    }
  }
  // SmolLM2's tokenizer comes from a GGUF file, its template from ChatML with the model's own system message.
  std::string Chosen() const {
    if (GetParam() != "smollm2") return "";
    return "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
           "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' "
           "}}"
           "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  }
  std::string folder_, golden_;
  runtime::PosixFileSystem files_;
};

TEST_P(ChatGolden, TextAndIdsAreTheReferences) {
  const auto chat = ChatTemplate::Open(files_, folder_, Chosen());
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto tokenizer = OpenTokenizer(files_, folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::ifstream in(golden_);
  int num_rows = 0, num_learned = 0;
  for (std::string line; std::getline(in, line); ++num_rows) {
    const OrderedJson row = OrderedJson::parse(line);
    const bool prompt = row["add_generation_prompt"].get<bool>();
    const auto text = chat->Render(row, prompt);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, row["text"].get<std::string>());
    if (prompt) continue;
    const auto example = EncodeChat(*chat, **tokenizer, {.row = row});
    ASSERT_TRUE(example.ok()) << example.status();
    EXPECT_EQ(example->ids, row["ids"].get<std::vector<int32_t>>());
    num_learned += example->num_targets() > 0;
  }
  EXPECT_EQ(num_rows, 19);
  EXPECT_EQ(num_learned, 10);
}

INSTANTIATE_TEST_SUITE_P(All, ChatGolden, ::testing::Values("smollm2", "qwen3", "llama3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace strata::data
