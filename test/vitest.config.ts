import { defineConfig } from "vitest/config"

const has = (variable: string): boolean => process.env[variable] !== undefined

// newer servers than those of the tests, and clusters of several processes, run only where the environment names them
const next = [
  ...(has("MILLRACE_RABBITMQ_NEXT") ? [] : ["rabbitmq/RabbitMqNext.integration.test.ts"]),
  ...(has("MILLRACE_NATS_NEXT") ? [] : ["nats/NatsNext.integration.test.ts"]),
  ...(has("MILLRACE_MOSQUITTO_NEXT") ? [] : ["mqtt/MqttNext.integration.test.ts"]),
  ...(has("MILLRACE_KAFKA_CLUSTER") ? [] : ["kafka/KafkaCluster.integration.test.ts"]),
  ...(has("MILLRACE_KAFKA_NEXT") ? [] : ["kafka/KafkaNext.integration.test.ts"]),
  ...(has("MILLRACE_REDIS_NEXT") || has("MILLRACE_VALKEY_NEXT") ? [] : ["redis/RedisNext.integration.test.ts"])
]

// the first start of Keycloak downloads, builds and takes minutes
const keycloak = process.env["MILLRACE_KEYCLOAK"] === undefined ? ["security/Keycloak.integration.test.ts"] : []

export default defineConfig({
  test: {
    reporters: ["default", "./reporter.ts"],
    // most tests on servers wait: two at a time left two processors idle for two thirds of the time
    maxWorkers: 3,
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: ["**/*.test.ts"],
          exclude: ["**/*.integration.test.ts", "**/node_modules/**"],
          // Properties and laws share two busy cores with all others; what stands still fails all the same.
          testTimeout: 30_000
        }
      },
      {
        extends: true,
        test: {
          name: "integration",
          include: ["**/*.integration.test.ts"],
          exclude: ["chaos/**", "**/node_modules/**", ...next, ...keycloak],
          globalSetup: ["./services/setup.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // After the rest: real servers want the machine for themselves.
          sequence: { groupOrder: 1 }
        }
      },
      {
        extends: true,
        test: {
          name: "chaos",
          include: ["chaos/*.integration.test.ts"],
          sequence: { groupOrder: 2 }
        }
      },
      {
        extends: true,
        test: {
          name: "types",
          include: [],
          typecheck: { enabled: true, only: true, include: ["types/**/*.test-d.ts"], tsconfig: "types/tsconfig.json" }
        }
      }
    ]
  }
})
