/**
 * Millrace on Redis by ioredis: Streams, Lists and Pub/Sub, and the stores of idempotency keys, rate limits and tasks.
 */
export * as IdempotencyRedis from "./IdempotencyRedis.ts"
export * as RateLimitRedis from "./RateLimitRedis.ts"
export * as RedisLists from "./RedisLists.ts"
export * as RedisPubSub from "./RedisPubSub.ts"
export * as RedisStreams from "./RedisStreams.ts"
export * as TaskStoreRedis from "./TaskStoreRedis.ts"
