import { homedir, tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { assert, describe, it } from "vitest"
import { committable, importsOf, packages, read, readJson, resolve, root, sources } from "./workspace.ts"

const lowest = ["message", "telemetry", "pipeline", "driver"]

/** The folders of core that each folder may import beside itself: one way, from the message to the engine. */
const folders: Record<string, ReadonlyArray<string>> = {
  message: [],
  telemetry: ["message"],
  pipeline: ["message", "telemetry"],
  driver: ["message", "telemetry", "pipeline"],
  broker: lowest,
  middleware: [...lowest, "broker"],
  "internal/engine": [...lowest, "broker"],
  tasks: lowest,
  health: [...lowest, "broker", "middleware"],
  memory: [...lowest, "broker", "internal/engine"]
}

/** Modules of core that only other packages of Millrace import. */
const forPackages = [
  "internal/engine/MessageScopes",
  "message/awsSignature",
  "message/boundedText",
  "message/compositeKey",
  "message/issueText",
  "message/manualRedirects",
  "message/rereading",
  "message/retryAfter",
  "message/sha256",
  "middleware/audit/text",
  "middleware/circuitBreaker/circuit",
  "telemetry/Counters"
]

/** The folders of core whose names a driver may use: what a driver's author needs, and the engine it is handed to. */
const forDrivers = new Set(["message", "telemetry", "driver", "broker", "internal"])
const drivers = ["kafka", "rabbitmq", "redis", "nats", "mqtt"]

const topLevel = new Set([
  "package.json",
  "tsconfig.json",
  "packages",
  "examples",
  "test",
  "pnpm-workspace.yaml",
  "pnpm-lock.yaml",
  "README.md",
  "LICENSE",
  "docs"
])

/** The names that private files of every driver have, one for each responsibility. */
const shared = new Set([
  "Options",
  "Connection",
  "Consumer",
  "Publisher",
  "Codec",
  "Topology",
  "Errors",
  "Browse",
  "Lock"
])

interface Shelf {
  /** The modules that users import, beside `index`. */
  readonly open: ReadonlyArray<string>
  /** The private files that only this package has, or `any` where their names are free. */
  readonly own: ReadonlyArray<string> | "any"
}

/** Packages whose private files are in `internal`. */
const shelves: Record<string, Shelf> = {
  http: {
    open: [
      "Body",
      "Call",
      "Caller",
      "Client",
      "ClientAddress",
      "Cors",
      "HealthRoutes",
      "IdempotencyKey",
      "Listener",
      "NodeServer",
      "Problem",
      "RateLimitFields",
      "Request",
      "Server",
      "Sink",
      "Webhook"
    ],
    own: "any"
  },
  codecs: {
    open: [
      "Avro",
      "CloudEvents",
      "Compatibility",
      "Compression",
      "Csv",
      "MessagePack",
      "SchemaRegistry",
      "Text",
      "Upcast"
    ],
    own: "any"
  },
  protobuf: { open: ["Protobuf", "ProtobufRegistry"], own: "any" },
  claims: { open: ["Claims", "ClaimFile", "ClaimNats", "ClaimS3", "ClaimSql", "ClaimStore"], own: "any" },
  crypto: { open: ["AwsKms", "EncryptedField", "Encryption", "Keys", "Kms", "SubjectKeys"], own: "any" },
  dashboard: { open: ["Dashboard", "MonitorRoutes"], own: "any" },
  monitor: {
    open: [
      "AlertChannel",
      "AlertEmail",
      "AlertRule",
      "Fingerprint",
      "Fold",
      "Monitor",
      "MonitorSql",
      "Preset",
      "Severity"
    ],
    own: "any"
  },
  program: { open: ["Program"], own: "any" },
  security: { open: ["ApiKey", "Hmac", "Jwt"], own: "any" },
  temporal: { open: ["Temporal", "TemporalWorker"], own: "any" },
  workflow: {
    open: [
      "Activity",
      "EffectWorkflows",
      "Execution",
      "SignalWorkflow",
      "StartWorkflow",
      "WorkflowStarter",
      "WorkflowType"
    ],
    own: "any"
  },
  sql: {
    open: [
      "AuditPostgres",
      "AuditSqlite",
      "IdempotencyPostgres",
      "IdempotencySqlite",
      "Inbox",
      "Outbox",
      "OutboxRelay",
      "PostgresConnection",
      "RateLimitPostgres",
      "RateLimitSqlite",
      "SqlHealth",
      "SqliteClient",
      "TaskStorePostgres"
    ],
    own: "any"
  },
  tasks: { open: ["Task", "Tasks", "Worker"], own: "any" },
  testing: {
    open: [
      "AuditStoreContract",
      "BrokerContract",
      "Deliveries",
      "HttpConformance",
      "IdempotencyStoreContract",
      "MiddlewareLaws",
      "RateLimitStoreContract",
      "Simulation",
      "TaskStoreContract",
      "servers/Apicurio",
      "servers/Certificates",
      "servers/Kafka",
      "servers/KafkaCluster",
      "servers/Keycloak",
      "servers/Mosquitto",
      "servers/Nats",
      "servers/Postgres",
      "servers/RabbitMq",
      "servers/Redis",
      "servers/RedisCluster",
      "servers/RedisSentinel",
      "servers/S3Proxy",
      "servers/Server",
      "servers/Temporal",
      "servers/index",
      "servers/downloads",
      "servers/process",
      "servers/redisCommand",
      "servers/redisTls"
    ],
    own: "any"
  },
  kafka: {
    open: ["Kafka", "KafkaAdmin", "KafkaAwsIam", "KafkaJs", "KafkaTransaction"],
    own: [
      "Admin",
      "Assigner",
      "Beginning",
      "Cluster",
      "Membership",
      "Password",
      "Progress",
      "SettledRanges",
      "Token",
      "TopicSet",
      "Transaction",
      "capabilities",
      "kafkajs/AbortedTransactions",
      "kafkajs/Brokers",
      "kafkajs/Cluster",
      "kafkajs/Sasl",
      "kafkajs/Transaction",
      "platformatic/ClassicGroup",
      "platformatic/Cluster",
      "platformatic/ConsumerGroup",
      "platformatic/Fetch",
      "platformatic/Group",
      "platformatic/Leaders",
      "platformatic/Offsets",
      "platformatic/Partition",
      "platformatic/Partitioner",
      "platformatic/Transaction"
    ]
  },
  mqtt: { open: ["Mqtt"], own: ["AckQueue", "Inbox", "Packet", "Session"] },
  nats: {
    open: ["JetStream", "Nats"],
    own: [
      "Backlog",
      "Credentials",
      "HeaderLines",
      "Names",
      "jetstream/Durable",
      "jetstream/OutboundQueue",
      "jetstream/Pulls",
      "jetstream/Reader",
      "jetstream/StreamSettings",
      "jetstream/Takeover",
      "jetstream/Unsettled"
    ]
  },
  rabbitmq: {
    open: ["RabbitMq"],
    own: [
      "Acknowledgements",
      "Channels",
      "Copies",
      "DelayQueues",
      "FrameSize",
      "Frames",
      "GroupMember",
      "Groups",
      "InFlight",
      "Log",
      "Origins",
      "OutboundQueue",
      "OwnHeaders",
      "Properties",
      "PublishCall",
      "QueueType",
      "Requests",
      "Settlement",
      "Url",
      "Values"
    ]
  },
  redis: {
    open: ["IdempotencyRedis", "RateLimitRedis", "RedisLists", "RedisPubSub", "RedisStreams", "TaskStoreRedis"],
    own: [
      "client/Address",
      "client/Client",
      "client/Cluster",
      "client/Environment",
      "client/Eviction",
      "client/Keys",
      "client/Origin",
      "client/Sentinel",
      "client/ServerConnection",
      "client/Slots",
      "idempotency/Scripts",
      "lists/Scripts",
      "ratelimit/Leases",
      "ratelimit/Scripts",
      "streams/CompetingConsumer",
      "streams/Deliveries",
      "streams/OrderedConsumer",
      "streams/Scripts",
      "streams/Streams",
      "tasks/Scripts",
      "tasks/Table"
    ]
  }
}

const folderOf = (file: string): string => /^packages\/core\/src\/((?:internal\/)?[^/]+)/.exec(file)?.[1] ?? ""

/** Which folder of core each name of its entry comes from. */
const namesOfCore = (): ReadonlyMap<string, string> =>
  new Map(
    [
      ...read("packages/core/src/index.ts").matchAll(
        /^export (?:type )?(?:\* as (\w+)|\{([^}]+)\}) from "\.\/(\w+)\//gm
      )
    ].flatMap(
      ([, namespace, names, folder = ""]) =>
        (namespace !== undefined
          ? [namespace]
          : (names ?? "").split(",").map((name) => name.trim().split(/\s+/).at(-1) ?? "")).map(
            (name): [string, string] => [name, folder]
          )
    )
  )

describe("layout", () => {
  it("imports in core point one way", () => {
    const wrong = sources("packages/core/src/*/**/*.ts").flatMap((file) => {
      const allowed = folders[folderOf(file)]
      if (allowed === undefined) return [`${file}: the folder ${folderOf(file)} is not in this test's list`]
      return importsOf(read(file))
        .filter(({ specifier }) => specifier.startsWith("."))
        .map(({ line, specifier }) => ({ line, target: resolve(file, specifier) }))
        .filter(({ target }) => folderOf(target) !== folderOf(file) && !allowed.includes(folderOf(target)))
        .map(({ line, target }) => `${file}:${line}: ${folderOf(file)} must not import ${target}`)
    })
    assert.deepStrictEqual(wrong, [])
  })

  it("users import the modules of core's index by name, and no other module", () => {
    const { exports, publishConfig } = readJson("packages/core/package.json")
    const modules = Array.from(
      read("packages/core/src/index.ts").matchAll(/^export \* as (\w+) from "\.\/(.+)\.ts"$/gm),
      ([, name = "", path = ""]): [string, string] => [`./${name}`, path]
    )
    const entries = new Map<string, string>([
      [".", "index"],
      ...modules,
      ...forPackages.map((path): [string, string] => [
        `./${path.split("/").at(-1)}`,
        path
      ])
    ])
    const file = "./package.json"
    assert.deepStrictEqual(
      new Map(Object.entries(exports)),
      new Map([...Array.from(entries, ([name, path]): [string, string] => [name, `./src/${path}.ts`]), [file, file]])
    )
    assert.deepStrictEqual(
      new Map(Object.entries(publishConfig.exports)),
      new Map<string, unknown>([
        ...Array.from(
          entries,
          ([name, path]): [string, unknown] => [
            name,
            { types: `./dist/${path}.d.ts`, module: `./dist/${path}.js`, default: `./dist/node/${path}.js` }
          ]
        ),
        [file, file]
      ])
    )
  })

  it("core runs anywhere: it imports effect and nothing else", () => {
    const wrong = sources("packages/core/src/**/*.ts").flatMap((file) =>
      importsOf(read(file))
        .filter(({ specifier }) => !/^(\.|effect$|effect\/)/.test(specifier))
        .map(({ line, specifier }) => `${file}:${line}: ${specifier}`)
    )
    assert.deepStrictEqual(wrong, [])
  })

  it("packages reach each other by their public entries", () => {
    const files = new Set(sources("packages/*/src/**/*.ts"))
    const wrong = sources("{packages/*/src,test,examples}/**/*.ts").flatMap((file) => {
      const home = file.split("/").slice(0, file.startsWith("packages/") ? 2 : 1).join("/")
      return importsOf(read(file)).flatMap(({ line, specifier }) => {
        if (home !== "test" && specifier.startsWith(".") && !resolve(file, specifier).startsWith(`${home}/`)) {
          return [`${file}:${line}: ${specifier} leaves ${home}`]
        }
        const [, name, entry] = /^@millrace\/(\w+)(?:\/(.+))?$/.exec(specifier) ?? []
        if (name === undefined || !packages.includes(name)) return []
        const { exports } = readJson(`packages/${name}/package.json`)
        // a file of its own, by the pattern
        const isFile = exports["./*"] !== undefined && files.has(`packages/${name}/src/${entry}.ts`) &&
          !(exports["./internal/*"] === null && entry?.startsWith("internal/") === true)
        return exports[entry === undefined ? "." : `./${entry}`] === undefined && !isFile
          ? [`${file}:${line}: ${specifier} is not exported`]
          : []
      })
    })
    assert.deepStrictEqual(wrong, [])
  })

  it("packages declare what they import", () => {
    const wrong = packages.flatMap((name) => {
      const { dependencies, peerDependencies } = readJson(`packages/${name}/package.json`)
      const declared = new Set([...Object.keys(dependencies ?? {}), ...Object.keys(peerDependencies ?? {})])
      return sources(`packages/${name}/src/**/*.ts`).flatMap((file) =>
        importsOf(read(file))
          .filter(({ specifier }) => !/^(\.|node:)/.test(specifier))
          .filter(({ specifier }) =>
            !declared.has(specifier.split("/").slice(0, specifier.startsWith("@") ? 2 : 1).join("/"))
          )
          .map(({ line, specifier }) => `${file}:${line}: ${specifier}`)
      )
    })
    assert.deepStrictEqual(wrong, [])
  })

  it("drivers use of core only what its authors of drivers are given", () => {
    const folder = namesOfCore()
    // a store that lives beside a driver is made for the middleware that it is named after
    const isStore = (file: string) => /(idempotency|ratelimit|tasks?store|tasks\/)/i.test(file)
    const wrong = sources(`packages/{${drivers.join(",")},}/src/**/*.ts`).filter((file) => !isStore(file)).flatMap((
      file
    ) =>
      importsOf(read(file))
        .filter(({ specifier }) => specifier === "@millrace/core")
        .flatMap(({ line, clause }) =>
          (/\{([\s\S]*)\}/.exec(clause)?.[1] ?? clause)
            .split(",")
            .map((part) => part.trim().replace(/^type\s+/, "").split(/\s+as\s+/)[0] ?? "")
            .filter((name) => name !== "" && !forDrivers.has(folder.get(name) ?? ""))
            .map((name) => `${file}:${line}: ${name} is of ${folder.get(name) ?? "no folder"}`)
        )
    )
    assert.deepStrictEqual(wrong, [])
  })

  it("private files of a driver are in internal, by the names that all drivers share", () => {
    const wrong = Object.entries(shelves).flatMap(([name, { open, own }]) => {
      const home = `packages/${name}/src/`
      const files = sources(`${home}**/*.ts`).map((file) => file.slice(home.length, -3))
      const isPrivate = (file: string) => file.startsWith("internal/")
      const { exports, publishConfig } = readJson(`packages/${name}/package.json`)
      assert.strictEqual(exports["./internal/*"], null, name)
      assert.strictEqual(publishConfig.exports["./internal/*"], null, name)
      assert.sameMembers(files.filter((file) => !isPrivate(file)), ["index", ...open], name)
      return files.filter(isPrivate).map((file) => file.slice("internal/".length))
        .filter((file) => own !== "any" && !own.includes(file) && !shared.has(file.split("/").at(-1)!))
        .map((file) => `${home}internal/${file}.ts`)
    })
    assert.deepStrictEqual(wrong, [])
  })

  it("a service is declared by a name that says its module, since that is what the compiler prints", () => {
    const wrong = sources(
      "packages/{core,crypto,http,kafka,monitor,mqtt,nats,program,rabbitmq,redis,security,sql,tasks}/src/**/*.ts"
    )
      .flatMap((
        file
      ) =>
        [
          ...read(file).matchAll(
            /^(?:export )?class (\w+) extends Context\.Service<[\s\S]*?>\(\)\(\s*"@millrace\/\w+(?:\/\w+)*?\/(\w+)\/\w+"/gm
          )
        ]
          .filter(([, name = "", module = ""]) => !name.startsWith(module))
          .map(([, name, module]) => `${file}: ${name} is of ${module}`)
      )
    assert.deepStrictEqual(wrong, [])
  })

  it("the README's table has a row for each middleware, in order", () => {
    const [, table = ""] = /^## Middlewares$([\s\S]*?)^## /m.exec(read("README.md")) ?? []
    const rows = [...table.matchAll(/^\| `(\w+)`/gm)].map(([, name = ""]) => name)
    const modules = [...read("packages/core/src/index.ts").matchAll(/^export \* as (\w+) from "\.\/middleware\//gm)]
    assert.deepStrictEqual(rows, modules.map(([, name = ""]) => name).sort())
  })

  it("a middleware's file is exported under its name, unless it begins in lower case", () => {
    const index = read("packages/core/src/index.ts")
    const missing = sources("packages/core/src/middleware/[A-Z]*.ts").map((file) =>
      file.split("/").at(-1)!.replace(/\.ts$/, "")
    )
      .filter((name) => !index.includes(`export * as ${name} from "./middleware/${name}.ts"`))
    assert.deepStrictEqual(missing, [])
  })

  it("every package is built, checked and tested", () => {
    const paths = (file: string): ReadonlyArray<string> =>
      readJson(file).references.map(({ path }: { path: string }) => path)
    assert.includeMembers([...paths("tsconfig.json")], [
      ...packages.map((name) => `packages/${name}`),
      "test",
      "test/types"
    ])
    assert.includeMembers([...paths("test/tsconfig.json")], packages.map((name) => `../packages/${name}`))
    for (const name of packages) {
      const { devDependencies, name: published, publishConfig, exports } = readJson(`packages/${name}/package.json`)
      const siblings = Object.keys(devDependencies ?? {}).flatMap((key) =>
        key.startsWith("@millrace/") ? [`../${key.slice(10)}`] : []
      )
      assert.strictEqual(published, `@millrace/${name}`)
      assert.deepStrictEqual(
        [...paths(`packages/${name}/tsconfig.json`)].sort(),
        siblings.sort(),
        `references of ${name}`
      )
      assert.deepStrictEqual(Object.keys(publishConfig.exports), Object.keys(exports), `published exports of ${name}`)
    }
  })

  it("the top level holds only what belongs there", () => {
    const names = new Set(committable().map((file) => file.split("/")[0] ?? ""))
    assert.deepStrictEqual([...names].filter((name) => !topLevel.has(name) && !name.startsWith(".")), [])
  })

  it("no file names a machine's folder or a registry's host", () => {
    const folder = (path: string): ReadonlyArray<RegExp> =>
      path === "/" || path === tmpdir() ? [] : [new RegExp(`(?<![\\w./-])${RegExp.escape(path)}(?![\\w-])`)]
    const forbidden = [
      ...[root, dirname(root), homedir()].flatMap(folder),
      /(?<![\w.])\/(?:home|Users)\/\w+/,
      /\b(?:registry|repo\d*|mirrors?|proxy|packages)\.[a-z0-9-]+\.(?:org|com|io|dev|net)\b/,
      /\b(?:npm|maven)\.[a-z0-9-]+\.(?:com|io|net)\b/
    ]
    const wrong = committable().flatMap((file) => {
      const text = read(file)
      if (text.includes("\0")) return []
      return text.split("\n").flatMap((line, index) => {
        const found = forbidden.map((pattern) => pattern.exec(line)?.[0]).find((hit) => hit !== undefined)
        return found === undefined ? [] : [`${file}:${index + 1}: ${found}`]
      })
    })
    assert.deepStrictEqual(wrong, [])
  })

  it("an example has a number and a main file", () => {
    const wrong = sources("examples/*/**/*.ts").map((file) => join("examples", file.split("/")[1] ?? ""))
      .filter((folder, index, all) => all.indexOf(folder) === index)
      .filter((folder) => !/^examples\/\d\d-[a-z-]+$/.test(folder) || sources(`${folder}/main.ts`).length === 0)
    assert.deepStrictEqual(wrong, [])
  })
})
