#include <algorithm>
#include <array>
#include <utility>

#include "client/data/chat_template.h"
#include "common/config/chat_templates.h"

namespace strata::data {
namespace {

// Each marks what the assistant says, its end-of-turn token with it.
constexpr auto kBuiltins = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"alpaca", R"jinja({{ bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- message.content + '\n\n' }}
{%- elif message.role == 'user' %}
{{- '### Instruction:\n' + message.content + '\n\n' }}
{%- elif message.role == 'assistant' %}
{{- '### Response:\n' }}
{%- generation %}{{- message.content + eos_token }}{% endgeneration %}
{{- '\n\n' }}
{%- else %}
{{- raise_exception('the roles are system, user and assistant, not ' + message.role) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\n' }}{% endif %})jinja"},
    {"chatml", R"jinja({% for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %})jinja"},
    {"gemma", R"jinja({{ bos_token }}
{%- for message in messages %}
{%- if message.role not in ['user', 'assistant'] %}
{{- raise_exception('the roles are user and assistant, not ' + message.role) }}
{%- endif %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('user and assistant must take turns') }}
{%- endif %}
{%- if message.role == 'assistant' %}
{{- '<start_of_turn>model\n' }}
{%- generation %}{{- message.content | trim + '<end_of_turn>' }}{% endgeneration %}
{%- else %}
{{- '<start_of_turn>user\n' + message.content | trim + '<end_of_turn>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %})jinja"},
    {"llama2", R"jinja({% set system = '' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}
{%- set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}
{%- set turns = messages[1:] %}
{%- endif %}
{%- for message in turns %}
{%- if message.role not in ['user', 'assistant'] or (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('user and assistant must take turns') }}
{%- endif %}
{%- if message.role == 'user' %}
{{- bos_token + '[INST] ' + ((system if loop.first else '') + message.content) | trim + ' [/INST]' }}
{%- else %}
{{- ' ' }}
{%- generation %}{{- message.content | trim + ' ' + eos_token }}{% endgeneration %}
{%- endif %}
{%- endfor %})jinja"},
    {"llama3", R"jinja({{ bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content | trim + '<|eot_id|>' }}{% endgeneration %}
{%- else %}
{{- message.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %})jinja"},
    {"mistral", R"jinja({{ bos_token }}
{%- set system = '' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}
{%- set system = messages[0].content + '\n\n' %}
{%- set turns = messages[1:] %}
{%- endif %}
{%- for message in turns %}
{%- if message.role not in ['user', 'assistant'] or (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('user and assistant must take turns') }}
{%- endif %}
{%- if message.role == 'user' %}
{{- '[INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}
{%- else %}
{{- ' ' }}
{%- generation %}{{- message.content + eos_token }}{% endgeneration %}
{%- endif %}
{%- endfor %})jinja"},
    {"phi3", R"jinja({% for message in messages %}
{{- '<|' + message.role + '|>\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|end|>' }}{% endgeneration %}
{%- else %}
{{- message.content + '<|end|>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% else %}{{- eos_token }}{% endif %})jinja"},
});
static_assert(std::ranges::equal(kBuiltins, config::kChatTemplateWords, {},
                                 [](const auto& entry) { return entry.first; }));

}  // namespace

std::string BuiltinList() {
  std::string names;
  for (const auto& [name, source] : kBuiltins) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

std::string_view BuiltinSource(std::string_view name) {
  for (const auto& [known, source] : kBuiltins) {
    if (known == name) return source;
  }
  return {};
}

}  // namespace strata::data
