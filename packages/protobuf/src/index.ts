/**
 * Protocol Buffers as a codec.
 */
export * as Protobuf from "./Protobuf.ts"
