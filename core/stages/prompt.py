"""Prompt stage: a form of any fields, checked by type and policies (flows.md §5.6). ``prompts.py`` has the fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from core import models
from core.errors import NON_FIELD
from core.policies.base import PolicyRequest
from core.policies.expression import evaluate
from core.prompts import CHOICES, Refused, Shown, choices_of
from core.stages.base import Advance, ChallengeStage, Errors, Options, Outcome

EXPRESSION_TIMEOUT_S = 10.0  # one expression of a field, while somebody waits for the form
TAKEN = "Username is already taken."
DIFFERENT = "Passwords don't match."
NOT_ACCEPTED = "The answer is not accepted."


class PromptOptions(Options, kw_only=True):
    """Fields and the policies that must all pass; primary keys."""

    fields: list[str] = msgspec.field(default_factory=list)
    validation_policies: list[str] = msgspec.field(default_factory=list)


class PromptStage(ChallengeStage):
    """Asks for values and merges them into ``prompt_data``."""

    model = "authentik_stages_prompt.promptstage"
    Options = PromptOptions
    component = "ak-stage-prompt-form"
    verbose_name = "Prompt Stage"
    challenge_component = "ak-stage-prompt"
    user_info: ClassVar[bool] = False

    async def challenge(self) -> dict[str, Any]:
        """The fields in their order."""
        return {"fields": [shown.challenge() for shown in await self._shown()]}

    async def respond(self, data: Mapping[str, Any]) -> Outcome:
        """Check each field, then passwords against each other, then the policies."""
        values: dict[str, Any] = {}
        errors: dict[str, list[tuple[str, str]]] = {}
        passwords: list[Any] = []
        for shown in await self._shown():
            key = shown.prompt.field_key
            try:
                there, value = shown.stored(data)
                if there and shown.prompt.type == "username":
                    self._check_free(value)
            except Refused as refused:
                errors[key] = [(refused.text, refused.code)]
                continue
            if there:
                values[key] = value
            if shown.prompt.type == "password":
                passwords.append(value if there else None)
        if errors:
            return Errors(errors)
        if any(value != passwords[0] for value in passwords):
            return Errors.one(DIFFERENT)
        refusal = await self._judged(values)
        if refusal is not None:
            return refusal
        self.run.plan.context.setdefault("prompt_data", {}).update(values)
        return Advance()

    async def _judged(self, values: dict[str, Any]) -> Errors | None:
        """What the validation policies say to the submitted values alone."""
        services, options = self.run.services, self.options
        if not options.validation_policies:
            return None
        found = services.database.get_many(models.Policy, options.validation_policies)
        missing = [pk for pk in options.validation_policies if pk not in found]
        result = await services.engine.evaluate_policies(
            [found[pk] for pk in options.validation_policies if pk in found],
            self.run.pending_user or services.anonymous,
            http_request=self.run.request,
            context={"prompt_data": values},
        )
        if result.passing and not missing:
            return None
        return Errors({NON_FIELD: [(text, "invalid") for text in result.messages] or [(NOT_ACCEPTED, "invalid")]})

    def _check_free(self, username: str) -> None:
        holder = self.run.services.database.first(models.User, username=username)
        if holder is not None and holder != self.run.pending_user:
            raise Refused(TAKEN)

    # --- fields as they stand now ----------------------------------------------------------------------------------

    async def _shown(self) -> list[Shown]:
        found = self.run.services.database.find(models.Prompt, pk__in=self.options.fields)
        return [await self._one(prompt) for prompt in found]

    async def _one(self, prompt: models.Prompt) -> Shown:
        known = self.run.plan.context.get("prompt_data")
        context: dict[str, Any] = dict(known) if isinstance(known, dict) else {}
        shown = Shown(prompt)
        ready = f"{prompt.field_key}__choices"
        if prompt.type in CHOICES and ready in context:
            shown.choices = choices_of(context[ready])
        else:
            shown.placeholder = await self._value(prompt, prompt.placeholder, prompt.placeholder_expression, context)
            if prompt.type in CHOICES:
                shown.choices = choices_of(shown.placeholder)
        if prompt.field_key in context:
            shown.initial = context[prompt.field_key]
        else:
            shown.initial = await self._value(prompt, prompt.initial_value, prompt.initial_value_expression, context)
        if prompt.type in CHOICES:
            values = [value for value, _ in shown.choices]
            named = next((value for value in values if str(value) == str(shown.initial)), None)
            shown.initial = named if named is not None else values[0] if values else ""
        return shown

    async def _value(self, prompt: models.Prompt, text: str, is_expression: bool, context: dict[str, Any]) -> Any:
        """The literal text, or what the expression makes; one that fails is shown as it is written."""
        if not is_expression:
            return text
        user = self.run.pending_user or self.run.services.anonymous
        request = PolicyRequest(user=user, http_request=self.run.request, context=context)
        own = {"user": user, "prompt_context": context}
        try:
            return await self.run.services.engine.compute(
                lambda names: evaluate(text, prompt.name, names | own), request, prompt.name, EXPRESSION_TIMEOUT_S
            )
        except Exception:
            return text
