"""Every telemetry name that this project emits.

The packaged `gen_ai.*` constants are deprecated and lag behind their conventions,
so the names are written down here, from these revisions:

* GenAI: open-telemetry/semantic-conventions-genai, commit 024a4f944a (release v0.1.0).
* RPC, server, network, error: open-telemetry/semantic-conventions, v1.45.0.
* `assistants.*`: ours.
"""

from typing import Final

SCOPE_NAME: Final = "assistants"
GENAI_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/gen-ai/0.1.0"
RPC_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.45.0"

# General.
ERROR_TYPE: Final = "error.type"
EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SESSION_ID: Final = "session.id"
"""Same value as `gen_ai.conversation.id`: what OpenInference and Langfuse group by."""

# RPC.
RPC_METHOD: Final = "rpc.method"
RPC_STATUS_CODE: Final = "rpc.status_code"
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_SYSTEM_GRPC: Final = "grpc"

# GenAI: what is done.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
OPERATION_CHAT: Final = "chat"
OPERATION_INVOKE_AGENT: Final = "invoke_agent"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
OUTPUT_TYPE_JSON: Final = "json"
OUTPUT_TYPE_TEXT: Final = "text"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"

# GenAI: what is asked.
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"

# GenAI: what came back.
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
"""Seconds."""
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

# Ours: the run.
RUN_ATTEMPT: Final = "assistants.run.attempt"
RUN_NAME: Final = "assistants.run.name"
RUN_QUEUE_TIME_S: Final = "assistants.run.queue_time_s"
RUN_STATE: Final = "assistants.run.state"

# Ours: the engine's share of a model call, in seconds.
ENGINE_GENERATE_S: Final = "assistants.engine.generate_s"
ENGINE_PREPARE_S: Final = "assistants.engine.prepare_s"
ENGINE_PROMPT_S: Final = "assistants.engine.prompt_s"
ENGINE_QUEUE_S: Final = "assistants.engine.queue_s"
ENGINE_SPAN: Final = "generate"
"""Not a GenAI operation: a backend that sums model calls must not count this one again."""
