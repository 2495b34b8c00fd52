/* ChatML as Qwen 2.5 and Qwen 3 use it (https://huggingface.co/Qwen, chat_template of Qwen2.5-7B-Instruct and
 * Qwen3-0.6B). A message is
 *
 *   <|im_start|> role \n text <|im_end|> \n
 *
 * A call stands in the assistant's text as <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>, its answer in a
 * user's message as <tool_response>; Qwen 3 opens a turn with its reasoning in <think> ... </think>.
 * chatml.c renders it; text/chat_tagged.h reads it. */
#ifndef CLOCHER_TEXT_CHATML_H
#define CLOCHER_TEXT_CHATML_H

#include "text/chat_format.h"

#define CHATML_START      "<|im_start|>"
#define CHATML_END        "<|im_end|>"
#define CHATML_EOT        "<|endoftext|>"
#define CHATML_THINK      "<think>"
#define CHATML_THINK_END  "</think>"
#define CHATML_CALL       "<tool_call>"
#define CHATML_CALL_END   "</tool_call>"
#define CHATML_ANSWER     "<tool_response>"
#define CHATML_ANSWER_END "</tool_response>"

/* chat_format_qwen2_5 and chat_format_qwen3 are declared in text/chat_format.h. */

#endif
