/* The format that C2C gives models without a chat template, GPT-NeoX and Pythia for example: plain text,
 *
 *   ### Human: text### Assistant: text    ### Assistant:
 *
 * with no separator between turns (its template loses the line breaks) and no special token. System messages vanish.
 * c2c_chat.c renders it, c2c_parse.c reads it. */
#ifndef CLOCHER_TEXT_C2C_CHAT_H
#define CLOCHER_TEXT_C2C_CHAT_H

#include "text/chat_format.h"

#define C2C_HUMAN     "### Human:"
#define C2C_ASSISTANT "### Assistant:"
#define C2C_EOS       "<|endoftext|>"

extern const chat_parser_ops c2c_parser_ops;

#endif
