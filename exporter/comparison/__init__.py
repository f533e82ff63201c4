"""Every layer and state of a model beside another one's."""
