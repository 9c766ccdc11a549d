#include <string.h>

/* Made by nanopb from the files in proto/; nothing of gRPC's own. */
#include "google/protobuf/any.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "grpc/health/v1/health.pb.h"
#include "grpc/reflection/v1/reflection.pb.h"
#include "snakepit_bridge.pb.h"
#include "sp_message.h"

/* Of grpc.reflection.v1alpha the messages are the same, so they are not here.
 *
 * nanopb has no list of messages, so the names stand here: the package's
 * prefix, the name, and whether it is a map's entry. One that is missing and
 * used as a field does not compile. */
#define MESSAGES(X)                                                            \
  X(google_protobuf, Any, false)                                               \
  X(google_protobuf, Timestamp, false)                                         \
  X(grpc_health_v1, HealthCheckRequest, false)                                 \
  X(grpc_health_v1, HealthCheckResponse, false)                                \
  X(grpc_reflection_v1, ErrorResponse, false)                                  \
  X(grpc_reflection_v1, ExtensionNumberResponse, false)                        \
  X(grpc_reflection_v1, ExtensionRequest, false)                               \
  X(grpc_reflection_v1, FileDescriptorResponse, false)                         \
  X(grpc_reflection_v1, ListServiceResponse, false)                            \
  X(grpc_reflection_v1, ServerReflectionRequest, false)                        \
  X(grpc_reflection_v1, ServerReflectionResponse, false)                       \
  X(grpc_reflection_v1, ServiceResponse, false)                                \
  X(snakepit_bridge, CleanupSessionRequest, false)                             \
  X(snakepit_bridge, CleanupSessionResponse, false)                            \
  X(snakepit_bridge, ExecuteElixirToolRequest, false)                          \
  X(snakepit_bridge, ExecuteElixirToolRequest_MetadataEntry, true)             \
  X(snakepit_bridge, ExecuteElixirToolRequest_ParametersEntry, true)           \
  X(snakepit_bridge, ExecuteElixirToolResponse, false)                         \
  X(snakepit_bridge, ExecuteElixirToolResponse_MetadataEntry, true)            \
  X(snakepit_bridge, ExecuteToolRequest, false)                                \
  X(snakepit_bridge, ExecuteToolRequest_BinaryParametersEntry, true)           \
  X(snakepit_bridge, ExecuteToolRequest_MetadataEntry, true)                   \
  X(snakepit_bridge, ExecuteToolRequest_ParametersEntry, true)                 \
  X(snakepit_bridge, ExecuteToolResponse, false)                               \
  X(snakepit_bridge, ExecuteToolResponse_MetadataEntry, true)                  \
  X(snakepit_bridge, GetExposedElixirToolsRequest, false)                      \
  X(snakepit_bridge, GetExposedElixirToolsResponse, false)                     \
  X(snakepit_bridge, GetSessionRequest, false)                                 \
  X(snakepit_bridge, GetSessionResponse, false)                                \
  X(snakepit_bridge, GetSessionResponse_MetadataEntry, true)                   \
  X(snakepit_bridge, HeartbeatRequest, false)                                  \
  X(snakepit_bridge, HeartbeatResponse, false)                                 \
  X(snakepit_bridge, InitializeSessionRequest, false)                          \
  X(snakepit_bridge, InitializeSessionRequest_MetadataEntry, true)             \
  X(snakepit_bridge, InitializeSessionResponse, false)                         \
  X(snakepit_bridge, InitializeSessionResponse_AvailableToolsEntry, true)      \
  X(snakepit_bridge, ParameterSpec, false)                                     \
  X(snakepit_bridge, PingRequest, false)                                       \
  X(snakepit_bridge, PingResponse, false)                                      \
  X(snakepit_bridge, RegisterToolsRequest, false)                              \
  X(snakepit_bridge, RegisterToolsResponse, false)                             \
  X(snakepit_bridge, RegisterToolsResponse_ToolIdsEntry, true)                 \
  X(snakepit_bridge, SessionConfig, false)                                     \
  X(snakepit_bridge, TelemetryControl, false)                                  \
  X(snakepit_bridge, TelemetryEvent, false)                                    \
  X(snakepit_bridge, TelemetryEventFilter, false)                              \
  X(snakepit_bridge, TelemetryEvent_MeasurementsEntry, true)                   \
  X(snakepit_bridge, TelemetryEvent_MetadataEntry, true)                       \
  X(snakepit_bridge, TelemetrySamplingUpdate, false)                           \
  X(snakepit_bridge, TelemetryToggle, false)                                   \
  X(snakepit_bridge, TelemetryValue, false)                                    \
  X(snakepit_bridge, ToolChunk, false)                                         \
  X(snakepit_bridge, ToolChunk_MetadataEntry, true)                            \
  X(snakepit_bridge, ToolInput, false)                                         \
  X(snakepit_bridge, ToolOutput, false)                                        \
  X(snakepit_bridge, ToolRegistration, false)                                  \
  X(snakepit_bridge, ToolRegistration_MetadataEntry, true)                     \
  X(snakepit_bridge, ToolSpec, false)                                          \
  X(snakepit_bridge, ToolSpec_MetadataEntry, true)

#define INDEX(package, name, entry) INDEX_##name,
enum { MESSAGES(INDEX) MESSAGE_COUNT };

#define DECLARE(package, name, entry)                                          \
  static const sp_message table_##package##_##name;
MESSAGES(DECLARE)

/* A row of nanopb's list is X(parent, allocation, label, type, name, tag); a
 * oneof's name is (group, member, access). */
#define FIELD(parent, alloc, label, type, name, tag)                           \
  FIELD_##label(parent, type, name, tag),
#define FIELD_SINGULAR(parent, type, name, tag)                                \
  ROW(parent##_##name, SINGULAR, type, #name, tag, NULL)
#define FIELD_OPTIONAL(parent, type, name, tag)                                \
  ROW(parent##_##name, OPTIONAL, type, #name, tag, NULL)
#define FIELD_REPEATED(parent, type, name, tag)                                \
  ROW(parent##_##name, REPEATED, type, #name, tag, NULL)
#define FIELD_ONEOF(parent, type, name, tag)                                   \
  MEMBER(parent, type, tag, UNWRAP name)
#define UNWRAP(group, member, access) group, member
#define MEMBER(parent, type, tag, names) MEMBER_(parent, type, tag, names)
#define MEMBER_(parent, type, tag, group, member)                              \
  ROW(parent##_##group##_##member, ONEOF, type, #member, tag, #group)

#define ROW(path, label_, type_, name_, tag_, group_)                          \
  {                                                                            \
    .name = (name_), .tag = (tag_), .type = TYPE_##type_,                      \
    .label = SP_MESSAGE_##label_, .group = (group_),                           \
    .message = OF_##type_(path)                                                \
  }

#define TYPE_BOOL SP_MESSAGE_BOOL
#define TYPE_INT32 SP_MESSAGE_INT32
#define TYPE_INT64 SP_MESSAGE_INT64
#define TYPE_UINT32 SP_MESSAGE_UINT32
#define TYPE_UINT64 SP_MESSAGE_UINT64
#define TYPE_SINT32 SP_MESSAGE_SINT32
#define TYPE_SINT64 SP_MESSAGE_SINT64
#define TYPE_ENUM SP_MESSAGE_ENUM
#define TYPE_UENUM SP_MESSAGE_ENUM
#define TYPE_FIXED32 SP_MESSAGE_FIXED32
#define TYPE_FIXED64 SP_MESSAGE_FIXED64
#define TYPE_SFIXED32 SP_MESSAGE_SFIXED32
#define TYPE_SFIXED64 SP_MESSAGE_SFIXED64
#define TYPE_FLOAT SP_MESSAGE_FLOAT
#define TYPE_DOUBLE SP_MESSAGE_DOUBLE
#define TYPE_STRING SP_MESSAGE_STRING
#define TYPE_BYTES SP_MESSAGE_BYTES
#define TYPE_MESSAGE SP_MESSAGE_MESSAGE
#define TYPE_MSG_W_CB SP_MESSAGE_MESSAGE

#define OF_BOOL(path) NULL
#define OF_INT32(path) NULL
#define OF_INT64(path) NULL
#define OF_UINT32(path) NULL
#define OF_UINT64(path) NULL
#define OF_SINT32(path) NULL
#define OF_SINT64(path) NULL
#define OF_ENUM(path) NULL
#define OF_UENUM(path) NULL
#define OF_FIXED32(path) NULL
#define OF_FIXED64(path) NULL
#define OF_SFIXED32(path) NULL
#define OF_SFIXED64(path) NULL
#define OF_FLOAT(path) NULL
#define OF_DOUBLE(path) NULL
#define OF_STRING(path) NULL
#define OF_BYTES(path) NULL
#define OF_MESSAGE(path) TABLE(path##_MSGTYPE)
#define OF_MSG_W_CB(path) TABLE(path##_MSGTYPE)
#define TABLE(symbol) TABLE_(symbol)
#define TABLE_(symbol) &table_##symbol

#define DEFINE(package, name_, entry_)                                         \
  static const sp_message_field fields_##package##_##name_[] = {               \
      package##_##name_##_FIELDLIST(FIELD, package##_##name_)};                \
  _Static_assert(sizeof fields_##package##_##name_ /                           \
                         sizeof *fields_##package##_##name_ <=                 \
                     SP_MESSAGE_MAX_FIELDS,                                    \
                 "too many fields in " #name_);                                \
  static const sp_message table_##package##_##name_ = {                        \
      .name = #name_,                                                          \
      .fields = fields_##package##_##name_,                                    \
      .count = sizeof fields_##package##_##name_ /                             \
               sizeof *fields_##package##_##name_,                             \
      .entry = (entry_),                                                       \
      .index = INDEX_##name_,                                                  \
  };
MESSAGES(DEFINE)

#define LISTED(package, name, entry) &table_##package##_##name,
static const sp_message *const messages[] = {MESSAGES(LISTED)};

size_t sp_message_count(void) { return MESSAGE_COUNT; }

const sp_message *sp_message_at(size_t index) { return messages[index]; }

const sp_message *sp_message_find(const char *name, size_t len) {
  for (size_t i = 0; i < MESSAGE_COUNT; i++)
    if (!messages[i]->entry && strlen(messages[i]->name) == len &&
        memcmp(messages[i]->name, name, len) == 0)
      return messages[i];
  return NULL;
}
