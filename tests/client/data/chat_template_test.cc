#include "client/data/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "client/data/chat_rows.h"
#include "client/data/dataset.h"
#include "client/data/row_reader.h"
#include "common/runtime/posix_file_system.h"
#include "common/status/cat.h"
#include "tests/testing/status_matchers.h"

namespace strata::data {
namespace {

using ::strata::testing::IsOk;
using ::strata::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A letter a token, but <..> is one special token.
class Letters : public Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text, bool /*add_special*/) const override {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '<') {
        ids.push_back(256 + static_cast<unsigned char>(text[i + 1]));
        i = text.find('>', i);
      } else {
        ids.push_back(static_cast<unsigned char>(text[i]));
      }
    }
    return ids;
  }
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 256) text += static_cast<char>(id);
      if (id >= 256 && !skip_special) text += std::string("<") + static_cast<char>(id - 256) + ">";
    }
    return text;
  }
  int32_t vocab_size() const override { return 512; }
  std::optional<int32_t> eos_id() const override { return std::nullopt; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::string Canonical() const override { return ""; }
};

ChatTemplate Parse(std::string_view source) {
  auto chat = ChatTemplate::Parse(source, "t.jinja", {{"bos_token", "<s>"}, {"eos_token", "<e>"}});
  EXPECT_THAT(chat, IsOk());
  return *std::move(chat);
}

ChatRow Conversation(const std::vector<std::pair<std::string, std::string>>& turns) {
  ChatRow row = {{"messages", OrderedJson::array()}};
  for (const auto& [role, content] : turns) row["messages"].push_back({{"role", role}, {"content", content}});
  return row;
}

// What is learned, a "|" between places that are apart.
std::string Learned(const ChatTemplate& chat, const ChatRow& row, size_t first = 0) {
  const Letters letters;
  const auto example = EncodeChat(chat, letters, {row, first});
  EXPECT_THAT(example, IsOk());
  std::string text;
  bool inside = false;
  for (size_t i = 0; example.ok() && i < example->ids.size(); ++i) {
    const bool target = example->labels[i] != kIgnored;
    if (target && !inside && !text.empty()) text += "|";
    if (target) text += letters.Decode({example->ids[i]}, false);
    inside = target;
  }
  return text;
}

constexpr char kChatMl[] =
    "{% for m in messages %}{{ '<b>' + m.role + '\n' + m.content + '<e>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<b>assistant\n' }}{% endif %}";
// Drops what stands before ']' in all turns but the last.
constexpr char kForgetful[] =
    "{% for m in messages %}{{ '<b>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split(']')[-1] }}{{ '<e>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<b>assistant\n' }}{% endif %}";

TEST(AssistantTurns, AreLearnedWithTheirEndOfTurnToken) {
  const ChatTemplate chat = Parse(kChatMl);
  EXPECT_EQ(Learned(chat, Conversation({{"user", "q"}, {"assistant", "one"}, {"user", "r"}, {"assistant", " two \n"}})),
            "one<e>| two \n<e>");
  EXPECT_EQ(Learned(chat, Conversation({{"user", "q"}})), "");
  EXPECT_EQ(Learned(chat, Conversation({{"system", "s"}, {"user", "q"}, {"assistant", ""}})), "<e>");
  EXPECT_EQ(Learned(chat, Conversation({{"user", "q"}, {"assistant", "a"}, {"assistant", "b"}})), "a<e>|b<e>");
  const ChatRow two = Conversation({{"user", "q"}, {"assistant", "one"}, {"user", "r"}, {"assistant", "two"}});
  EXPECT_EQ(Learned(chat, two, 2), "two<e>");
  EXPECT_EQ(Learned(chat, two, 4), "");
}

TEST(AssistantTurns, AreFoundByTheirContentWhereEarlierOnesAreRewritten) {
  const ChatTemplate chat = Parse(kForgetful);
  EXPECT_EQ(
      Learned(chat, Conversation({{"user", "q"}, {"assistant", "[x]one"}, {"user", "r"}, {"assistant", "[y]two"}})),
      "one<e>|[y]two<e>");
}

TEST(AssistantTurns, WithoutAnEndTokenAreLearnedAsTheyStand) {
  const ChatTemplate chat = Parse(
      "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}");
  EXPECT_EQ(Learned(chat, Conversation({{"user", "q"}, {"assistant", "a"}, {"user", "r"}})), "a\n");
}

TEST(AssistantTurns, MarkedOnesAreTakenAsMarked) {
  const ChatTemplate chat = Parse(
      "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}<e>\n\n{% endgeneration %}"
      "{% else %}{{ m.content }};{% endif %}{% endfor %}");
  EXPECT_EQ(Learned(chat, Conversation({{"user", "q"}, {"assistant", "a"}})), "a<e>\n\n");
  const ChatRow two = Conversation({{"user", "q"}, {"assistant", "a"}, {"user", "r"}, {"assistant", "b"}});
  EXPECT_EQ(Learned(chat, two), "a<e>\n\n|b<e>\n\n");
  EXPECT_EQ(Learned(chat, two, 2), "b<e>\n\n");
  EXPECT_EQ(Learned(chat, two, 3), "b<e>\n\n");
  EXPECT_EQ(Learned(chat, two, 4), "");
}

TEST(BuiltinTemplates, WriteTheFormatsAndMarkTheAssistant) {
  runtime::PosixFileSystem files;
  const std::string folder = ::testing::TempDir() + "/builtin_templates";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/tokenizer_config.json") << R"({"bos_token": "<s>", "eos_token": {"content": "<e>"}})";
  const ChatRow row = Conversation({{"user", "q"}, {"assistant", "a"}, {"user", "r"}});
  const auto text = [&](const char* name) {
    const auto chat = ChatTemplate::Open(files, folder, name);
    EXPECT_THAT(chat, IsOk());
    return chat->Render(row, true).value();
  };
  EXPECT_EQ(text("alpaca"), "<s>### Instruction:\nq\n\n### Response:\na<e>\n\n### Instruction:\nr\n\n### Response:\n");
  EXPECT_EQ(text("chatml"),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nr<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(text("gemma"),
            "<s><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n<start_of_turn>user\n"
            "r<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(text("llama2"), "<s>[INST] q [/INST] a <e><s>[INST] r [/INST]");
  EXPECT_EQ(
      text("llama3"),
      "<s><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
      "a<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nr<|eot_id|><|start_header_id|>assistant"
      "<|end_header_id|>\n\n");
  EXPECT_EQ(text("mistral"), "<s>[INST] q [/INST] a<e>[INST] r [/INST]");
  EXPECT_EQ(text("phi3"), "<|user|>\nq<|end|>\n<|assistant|>\na<|end|>\n<|user|>\nr<|end|>\n<|assistant|>\n");
  for (const char* name : {"alpaca", "llama2", "mistral"}) {
    EXPECT_THAT(Learned(*ChatTemplate::Open(files, folder, name), row), AllOf(HasSubstr("a"), HasSubstr("<e>")))
        << name;
  }
  EXPECT_THAT(ChatTemplate::Open(files, folder, ""),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no chat template")));
  EXPECT_THAT(ChatTemplate::Open(files, folder, "nonsense"), StatusIs(kInvalid, HasSubstr("alpaca, chatml")));
  std::filesystem::remove_all(folder);
}

TEST(ChatTemplates, BadConversationsAreRefusedInTheTemplatesWords) {
  const ChatTemplate chat =
      Parse("a\n{% if messages[0].role == 'system' %}\n{{ raise_exception('no system') }}{% endif %}");
  EXPECT_THAT(chat.Render(Conversation({{"system", "s"}}), false),
              StatusIs(kInvalid, HasSubstr("t.jinja:3: no system")));
  EXPECT_THAT(chat.Render({{"messages", OrderedJson::array()}}, false), StatusIs(kInvalid, HasSubstr("is empty")));
  EXPECT_THAT(chat.Render({{"messages", "x"}}, false), StatusIs(kInvalid, HasSubstr("must be a list")));
  EXPECT_THAT(chat.Render({{"messages", {1}}}, false), StatusIs(kInvalid, HasSubstr("'messages'[0]")));
  EXPECT_THAT(ChatTemplate::Parse("x\n{% if %}", "t.jinja", {}), StatusIs(kInvalid, HasSubstr("t.jinja:2: ")));
}

TEST(ChatTemplates, HostileTemplatesEnd) {
  for (const char* source : {
           "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
           "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
           "{{ 'x' * 999999999 * 999999999 }}",
           "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(999) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
           "{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}",
           "{{ ('x' * 60000000).replace('', 'y' * 60000000) }}",
           "{{ 'a' | tojson(indent=9999999) }}{{ [['a'] * 9999] * 9999 }}",
       }) {
    EXPECT_FALSE(Parse(source).Render(Conversation({{"user", "q"}}), false).ok()) << source;
  }
  const std::string deep(100000, '(');
  EXPECT_THAT(ChatTemplate::Parse("{{ " + deep, "t", {}), StatusIs(kInvalid));
  std::string ifs, sum = "{{ 1";
  for (int i = 0; i < 10000; ++i) ifs += "{% if 1 %}", sum += "+1";
  EXPECT_THAT(ChatTemplate::Parse(ifs, "t", {}), StatusIs(kInvalid));
  EXPECT_THAT(ChatTemplate::Parse(sum + " }}", "t", {}), StatusIs(kInvalid));
}

TEST(ChatRows, AreRowsOfADataset) {
  const Letters letters;
  const ChatTemplate chat = Parse(kChatMl);
  const std::string text =
      "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n"
      "{\"messages\": [{\"role\": \"user\"}]}\n";
  const auto bad = ParseJsonl(text, "x", &letters, 0, {.chat = &chat});
  EXPECT_THAT(bad, StatusIs(kInvalid, HasSubstr("x:2: t.jinja:2: 'dict object' has no attribute 'content'")));
  const auto rows = ParseJsonl(text, "x", &letters, 0, {.skip_bad_rows = true, .chat = &chat});
  ASSERT_THAT(rows, IsOk());
  ASSERT_EQ(rows->rows.size(), 1);
  EXPECT_EQ(rows->rows[0].num_targets(), 2);
  EXPECT_THAT(ParseJsonl(text, "x", &letters, 0, {}), StatusIs(kInvalid, HasSubstr("there is no chat template")));
}

TEST(ChatRows, MayBePromptAndCompletion) {
  const Letters letters;
  const ChatTemplate chat = Parse(kChatMl);
  constexpr std::string_view kTurns =
      R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}])";
  constexpr std::string_view kAnswer = R"([{"role": "assistant", "content": "two"}])";
  const auto read = [&](std::string_view prompt, std::string_view completion) {
    return ParseJsonl(Cat(R"({"prompt": )", prompt, R"(, "completion": )", completion, "}"), "x", &letters, 0,
                      {.chat = &chat});
  };
  const auto rows = read(kTurns, kAnswer);
  ASSERT_THAT(rows, IsOk());
  ASSERT_EQ(rows->rows.size(), 1);
  const auto whole = EncodeChat(
      chat, letters, {Conversation({{"user", "q"}, {"assistant", "a"}, {"user", "r"}, {"assistant", "two"}}), 2});
  ASSERT_THAT(whole, IsOk());
  EXPECT_EQ(rows->rows[0].ids, whole->ids);
  EXPECT_EQ(rows->rows[0].labels, whole->labels);
  EXPECT_EQ(rows->rows[0].num_targets(), 4);
  EXPECT_THAT(read(kTurns, R"("two")"), StatusIs(kInvalid, HasSubstr("x:1: 'completion' must be a list of messages")));
  EXPECT_THAT(read(R"("q")", kAnswer), StatusIs(kInvalid, HasSubstr("x:1: 'prompt' must be a list of messages")));
  EXPECT_THAT(read("[]", "[]"), StatusIs(kInvalid, HasSubstr("is empty")));
  const RowReader reader = {.tokenizer = &letters, .chat = &chat, .no_chat = {}};
  const auto prompt = reader.ReadPrompt({{"prompt", OrderedJson::parse(kTurns)}}, PromptForm::kText);
  ASSERT_THAT(prompt, IsOk());
  EXPECT_EQ(*prompt, letters.Encode(*chat.Render({{"messages", OrderedJson::parse(kTurns)}}, true), false));
}

TEST(ChatRows, OfPartsAreOfTextAlone) {
  const Letters letters;
  const ChatTemplate chat =
      Parse("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}<e>{% endfor %}");
  const auto rows = [&](const std::string& part) {
    const std::string text =
        R"({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "ab"})" + part + "]}]}";
    return ParseJsonl(text, "x", &letters, 0, {.chat = &chat});
  };
  const auto text = rows("");
  ASSERT_THAT(text, IsOk());
  EXPECT_EQ(text->rows[0].num_targets(), 2) << "b and <e>: nothing goes before a";
  EXPECT_THAT(rows(R"(, {"type": "image"})"),
              StatusIs(kInvalid, HasSubstr("x:1: 'messages'[0].'content'[1] must be of type 'text'")));
}

}  // namespace
}  // namespace strata::data
