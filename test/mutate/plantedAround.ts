/**
 * Faults of publishers, pipelines, middlewares and models that users have found, put back by an exact edit each. Tests must kill every one of them.
 */
import type { Plant } from "../simulate/plants.ts"

const fault = (name: string, about: string, ...edits: Plant["edits"]): Plant => ({ name, about, edits })

export const faultsAround: ReadonlyArray<Plant> = [
  fault(
    "use-letter-rule-throws",
    "calls the naming rule of dead letters without a guard",
    {
      file: "broker/Subscription.ts",
      find:
        "  try {\n    const name: unknown = rule(channel)\n    return typeof name === \"string\" && name !== \"\" ? name : undefined\n  } catch {\n    return undefined\n  }",
      replace: "  return rule(channel)"
    }
  ),
  fault(
    "use-error-getter-throws",
    "reads the fields of errors without a guard",
    {
      file: "message/Failure.ts",
      find:
        "  try {\n    return hasProperty(error, field) ? error[field] : undefined\n  } catch {\n    return undefined\n  }",
      replace: "  return hasProperty(error, field) ? error[field] : undefined"
    }
  ),
  fault(
    "use-tag-unguarded",
    "reads the tag of an error without a guard",
    {
      file: "message/Failure.ts",
      find: "const tag = read(error, \"_tag\")",
      replace: "const tag = (error as { readonly _tag?: unknown } | undefined)?._tag"
    }
  ),
  fault(
    "use-observer-throws-later",
    "lets an observer that throws change the end of a chain that suspends",
    {
      file: "pipeline/Eager.ts",
      find: "    pending = false\n    tell(after, exit)\n",
      replace: "    pending = false\n    after(exit)\n"
    }
  ),
  fault(
    "use-observer-throws-at-once",
    "lets an observer that throws change the end of a chain",
    {
      file: "pipeline/Eager.ts",
      find: "  tell(after, result)\n",
      replace: "  after(result)\n"
    }
  ),
  fault(
    "use-error-without-name",
    "gives the name of an error whatever it is",
    {
      file: "message/Failure.ts",
      find: "return typeof name === \"string\" && name !== \"\" ? bounded(name, maximumTag) : \"Error\"",
      replace: "return name as string"
    }
  ),
  fault(
    "use-letter-line-breaks",
    "writes line breaks of an error into the headers of its dead letter",
    {
      file: "broker/deadLetters/letter.ts",
      find: ".replace(unprintable, \" \")",
      replace: ""
    }
  ),
  fault(
    "use-retry-uncounted",
    "does not count retries in place",
    {
      file: "middleware/retry/telemetry.ts",
      find:
        "    else (message.kind === \"server\" ? countServedRetry : countRetry)(fiber.context, message.channel, tag)\n",
      replace: ""
    }
  ),
  fault(
    "use-retry-without-event",
    "adds no event of a retry to the span",
    {
      file: "middleware/retry/telemetry.ts",
      find: "if (span?._tag !== \"Span\") return",
      replace: "if (span?._tag !== undefined) return"
    }
  ),
  fault(
    "use-bulkhead-each",
    "asks a Bulkhead for a place for each message of a batch",
    {
      file: "middleware/Bulkhead.ts",
      find: "inBatch: \"once\"",
      replace: "inBatch: \"each\""
    }
  ),
  fault(
    "use-batch-one-by-one",
    "publishes the messages of a batch one by one",
    {
      file: "broker/Publisher.ts",
      find: "return broker.publishAll(batch)",
      replace: "return Effect.forEach(batch, broker.publish, { concurrency: \"unbounded\", discard: true })"
    }
  ),
  fault(
    "use-wrap-one-by-one",
    "publishes the messages of a batch one by one where Broker.wrap is",
    {
      file: "broker/Broker.ts",
      find: "(entries) => broker.publishAll(entries.map(({ message }) => message as Outgoing<Uint8Array>))",
      replace:
        "(entries) => Effect.forEach(entries, ({ message }) => broker.publish(message as Outgoing<Uint8Array>), { concurrency: \"unbounded\", discard: true })"
    }
  ),
  fault(
    "use-wrap-reversed",
    "runs the layers of Broker.wrap in the other order when consuming",
    {
      file: "pipeline/wrapping.ts",
      find: "const all = [...layers, layer]",
      replace: "const all = [layer, ...layers]"
    }
  ),
  fault(
    "use-wrap-order-unchecked",
    "does not check the order of middlewares across layers of Broker.wrap",
    {
      file: "broker/Broker.ts",
      find: "      Order.check({ [Description.DescriptionId]: steps })\n",
      replace: ""
    }
  ),
  fault(
    "use-table-prototype",
    "finds entries of settle that every object has",
    {
      file: "broker/Settlement.ts",
      find: "Object.hasOwn(table, name) ? table[name] : undefined",
      replace: "table[name]"
    }
  ),
  fault(
    "use-entry-no-outcome",
    "takes anything that an entry answers for an outcome",
    {
      file: "broker/Settlement.ts",
      find: "    return Outcome.isOutcome(outcome)\n      ? outcome\n",
      replace: "    return outcome !== outcome || true\n      ? outcome as Outcome.Outcome\n"
    }
  ),
  fault(
    "use-batch-mixes-services",
    "handles messages of several principals in one batch",
    {
      file: "pipeline/Batch.ts",
      find: "let group = open.find(({ members }) => services.isSame(members[0]!.context, context))",
      replace:
        "let group = open.find(({ members }) => members.length > 0 || services.isSame(members[0]!.context, context))"
    }
  ),
  fault(
    "use-batch-last-ids",
    "gives a batch the ids of its last message",
    {
      file: "pipeline/Batch.ts",
      find: "Effect.runForkWith(Context.add(Ambient.together(members), Current, group))(linked(members, effect))",
      replace: "Effect.runForkWith(Context.add(members.at(-1)!.context, Current, group))(linked(members, effect))"
    }
  ),
  fault(
    "use-undefined-answer",
    "takes undefined for the effect of a handler",
    {
      file: "pipeline/Eager.ts",
      find: "      effect = effectOf(answer)\n",
      replace: "      effect = answer\n"
    }
  ),
  fault(
    "use-correlate-kept-fiber",
    "keeps the fiber of the call after a suspension",
    {
      file: "middleware/Correlate.ts",
      find: "const running = (): Fiber.Fiber<unknown, unknown> => Fiber.getCurrent()!",
      replace:
        "let kept: Fiber.Fiber<unknown, unknown> | undefined\nconst running = (): Fiber.Fiber<unknown, unknown> => kept ?? Fiber.getCurrent()!"
    },
    {
      file: "middleware/Correlate.ts",
      find: "const receive = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope): Middleware.Returns => {\n",
      replace:
        "const receive = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope): Middleware.Returns => {\n        kept = fiber\n"
    }
  ),
  fault(
    "use-answer-refused",
    "fails a message that is done when its answer cannot be kept",
    {
      file: "middleware/idempotency/answer.ts",
      find:
        "      return Cause.hasInterrupts(exit.cause)\n        ? Exit.failCause(exit.cause as Cause.Cause<never>)\n        : Effect.as(",
      replace:
        "      return exit.cause !== undefined\n        ? Exit.failCause(exit.cause as Cause.Cause<never>)\n        : Effect.as("
    }
  ),
  fault(
    "use-answer-unreadable",
    "fails a duplicate whose kept answer cannot be read",
    {
      file: "middleware/idempotency/answer.ts",
      find:
        "      return Cause.hasInterrupts(exit.cause)\n        ? Exit.failCause(exit.cause as Cause.Cause<never>)\n        : Effect.flatMap(",
      replace:
        "      return exit.cause !== undefined\n        ? Exit.failCause(exit.cause as Cause.Cause<never>)\n        : Effect.flatMap("
    }
  ),
  fault(
    "use-key-joined",
    "joins the parts of an idempotency key by a line break",
    {
      file: "message/compositeKey.ts",
      find: "key += `${part.length}:${part}`",
      replace: "key += `\\n${part}`"
    }
  ),
  fault(
    "use-heartbeat-unlimited",
    "waits for a heartbeat without a limit",
    {
      file: "middleware/idempotency/lease.ts",
      find: "answeredWithin(extend, Math.min(unit, left))",
      replace: "answeredWithin(extend, Number.MAX_SAFE_INTEGER)"
    }
  ),
  fault(
    "use-timeout-repeatable",
    "lets a request be repeated that was cut off after it was sent",
    {
      file: "middleware/Timeout.ts",
      find: "return this.isUnrepeatable === true ? \"permanent\" : \"timeout\"",
      replace: "return \"timeout\""
    }
  ),
  fault(
    "use-tombstone-encoded",
    "encodes the payload of a tombstone",
    {
      file: "broker/Publisher.ts",
      find:
        "even if a middleware has set one\n      if (outgoing.native?.tombstone === true) return Exit.succeed(outgoing.withPayload(nothing))\n",
      replace: "even if a middleware has set one\n"
    }
  ),
  fault(
    "use-parcel-data-required",
    "refuses a parcel without data",
    {
      file: "message/Parcel.ts",
      find: "data: Schema.optionalKey(data)",
      replace: "data"
    }
  ),
  fault(
    "use-partition-lost",
    "drops the partition that a publish names",
    {
      file: "broker/Publisher.ts",
      find: ": { partition, timestamp, tombstone }",
      replace: ": { partition: undefined, timestamp, tombstone }"
    }
  ),
  fault(
    "use-timestamp-lost",
    "drops the timestamp that a publish names",
    {
      file: "broker/Publisher.ts",
      find: ": { partition, timestamp, tombstone }",
      replace: ": { partition, timestamp: undefined, tombstone }"
    }
  ),
  fault(
    "use-replay-to-all",
    "replays a dead letter to every group of its channel",
    {
      file: "broker/deadLetters/replayRecord.ts",
      find: "`${channel}.${group}.replay`",
      replace: "channel"
    }
  ),
  fault(
    "use-replay-repeats",
    "replays a dead letter again that was replayed before",
    {
      file: "broker/deadLetters/replayRecord.ts",
      find: "isDone: (id) => done.has(id)",
      replace: "isDone: () => false"
    }
  ),
  fault(
    "use-channel-ids-merge",
    "gives channels one id that differ in replaced characters",
    {
      file: "broker/AsyncApi.ts",
      find:
        "let id = idOf(name) === name || counts.get(idOf(name)) === 1 ? idOf(name) : exactId(name)\n    while (taken.has(id)) id += \"_\"",
      replace: "const id = idOf(name)"
    }
  ),
  fault(
    "use-operation-ids-merge",
    "gives operations of one name one id",
    {
      file: "broker/AsyncApi.ts",
      find:
        "let id = forms.find((form, at) => counts[at]?.get(form) === 1 && !taken.has(form)) ?? forms[2]\n    while (taken.has(id)) id += \"_\"",
      replace: "const id = forms[0]"
    }
  ),
  fault(
    "use-operations-without-send",
    "documents no operation that sends",
    {
      file: "broker/AsyncApi.ts",
      find: "  for (const place of sends) send(free(ids, `send.${channels.idOf(place.name)}`), channels.add(place))\n",
      replace: ""
    }
  ),
  fault(
    "use-series-by-topic",
    "labels series by the channel instead of the address",
    {
      file: "telemetry/Conventions.ts",
      find: "message.template ?? message.channel\n",
      replace: "message.channel\n"
    }
  ),
  fault(
    "use-series-unbounded",
    "keeps series for any number of channels",
    {
      file: "middleware/Metrics.ts",
      find: "if (distinct.size < channels) distinct.add(channel)",
      replace: "if (distinct.size < channels || true) distinct.add(channel)"
    }
  ),
  fault(
    "use-span-by-topic",
    "names spans by the channel instead of the address",
    {
      file: "telemetry/Conventions.ts",
      find: "? `process ${destinationOf(message)}`",
      replace: "? `process ${message.channel}`"
    }
  ),
  fault(
    "use-series-removed",
    "removes its series before the last export",
    {
      file: "middleware/Metrics.ts",
      find: "export const layer: Layer.Layer<MetricsRegistry> = Layer.effect(MetricsRegistry, make())",
      replace:
        "export const layer: Layer.Layer<MetricsRegistry> = Layer.effect(MetricsRegistry, Effect.tap(make(), () => Effect.flatMap(Metric.MetricRegistry, (series) => Effect.addFinalizer(() => Effect.sync(() => series.clear())))) as never)"
    }
  ),
  fault(
    "use-option-nan",
    "takes NaN for a duration of 0",
    {
      file: "message/OptionCheck.ts",
      find: "if (typeof value === \"number\") return Number.isNaN(value)",
      replace: "if (typeof value === \"number\") return false"
    }
  ),
  fault(
    "use-detached-span",
    "keeps the span of a request in a detached context",
    {
      file: "message/Detached.ts",
      find: "    Tracer.ParentSpan,\n",
      replace: ""
    }
  ),
  fault(
    "use-detached-references",
    "keeps the references of a request in a detached context",
    {
      file: "message/Detached.ts",
      find: "  const made: Context.Reference<A> = Context.Reference<A>(key, options)\n  add(made)\n",
      replace: "  const made: Context.Reference<A> = Context.Reference<A>(key, options)\n"
    }
  ),
  fault(
    "use-text-searched-whole",
    "searches a long text for secrets as a whole",
    {
      file: "telemetry/secretsIn.ts",
      find: "if (text.length <= longest) return without",
      replace: "if (text.length <= Infinity) return without"
    }
  ),
  fault(
    "use-body-searched-whole",
    "searches a long body for secrets as a whole",
    {
      file: "telemetry/secretsIn.ts",
      find: "JSON.stringify(body)?.slice(0, most)",
      replace: "JSON.stringify(body)"
    }
  )
]
